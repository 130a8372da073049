// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What programs are told of their connections and may ask for, by
 * getsockopt and setsockopt at level SOL_TCP:
 *
 *   TCP_INFO         as ever; while the device has the connection, with what
 *                    the device knows of the path
 *   TOEHOLD_OFFLOAD  where the connection is; never, auto or now
 *
 * And what the policy comes to for connections that are established.
 *
 * A seat is kept with the socket. The driver writes it by test runs of
 * usher, which finds the socket of a flow.
 */
#include "judge.h"
#include "key.h"
#include "lookup.h"
#include "seat.h"
#include "tcpinfo.h"

enum {
	IPPROTO_TCP = 6,
	SOL_TCP = 6,
	TCP_INFO = 11,
	TOEHOLD_OFFLOAD = 0x7061,
	EPERM = 1,
	EAGAIN = 11,
	EINVAL = 22,
	ENOTCONN = 107,
	TCP_ESTABLISHED = 1,
	TCP_CLOSE_WAIT = 8,
	TCP_LISTEN = 10,
};

volatile const u64 netns; /* cookie of the driver's, set when loaded */
volatile u32 forbidden;	  /* programs may not ask; written by the driver */

const struct block *described; /* the object says what it looks like */

/* The block tables of the devices. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	MAP_UINT(max_entries, 1); /* set when loaded */
	MAP_TYPE(key, u32);
	MAP_UINT(value_size, 4);
} tables SEC(".maps");

/* Wakes the driver. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_RINGBUF);
	MAP_UINT(max_entries, 1 << 16);
} wakes SEC(".maps");

struct wake {
	struct flow_key key;
	u32 wish, verdict; /* of the program, of the policy; 0: none */
};

/* What getsockopt(TOEHOLD_OFFLOAD) gives. */
struct answer {
	u32 place, wish;
	u64 hwid;
	u8 reason[40];
};

static ALWAYS_INLINE struct block *block_of(const struct seat *s)
{
	u32 table = s->table, index = s->hwid;
	void *blocks = bpf_map_lookup_elem(&tables, &table);

	return blocks ? bpf_map_lookup_elem(blocks, &index) : 0;
}

/* Reads what the device publishes. It writes without a lock and says so by an
 * odd sequence number; an atomic operation that changes nothing is the
 * barrier that BPF has. */
static ALWAYS_INLINE int read_hardware(struct block *b, u64 hwid,
				       struct hardware_part *to)
{
	u64 before, fence = 0;

	for (u32 i = 0; i < 8; i++) {
		before = *(volatile u64 *)&b->hardware.sequence;
		__sync_fetch_and_add(&fence, 1);
		__builtin_memcpy(to, &b->hardware, sizeof(*to));
		__sync_fetch_and_add(&fence, 1);
		if (!(before & 1) &&
		    before == *(volatile u64 *)&b->hardware.sequence)
			return to->hwid == hwid;
	}
	return 0;
}

/* What is told of octets acknowledged and sent does not go back when a
 * ledger says that the device has what S has not heard of yet. */
static ALWAYS_INLINE void keep_ahead(struct bpf_sockopt *ctx, struct seat *s,
				     struct stream *x)
{
	struct tcp_info *i = ctx->optval;
	u64 acked, sent;

	if (!HAS_ROOM(i, ctx->optval_end, bytes_sent))
		return;
	acked = i->bytes_acked;
	sent = i->bytes_sent;
	bpf_spin_lock(&s->lock);
	s->acked = most(s->acked, acked + x->bytes_acked);
	s->sent = most(s->sent, sent + x->bytes_sent);
	x->bytes_acked = s->acked - acked;
	x->bytes_sent = s->sent - sent;
	bpf_spin_unlock(&s->lock);
}

static ALWAYS_INLINE void tell_stream(struct bpf_sockopt *ctx, struct seat *s)
{
	struct stream x = {};
	struct block *b;
	u64 diverted = s->diverted;
	u32 unsent;

	b = diverted && diverted == s->hwid ? block_of(s) : 0;
	if (b) {
		unsent = count_bypass(b, s, &x);
		info_channel(ctx, &b->channel, unsent);
	}
#define SHIFT(f) x.f += s->offset.f;
	EACH_OF_STREAM(SHIFT)
#undef SHIFT
	if (b)
		keep_ahead(ctx, s, &x);
	info_stream(ctx, &x);
}

static ALWAYS_INLINE void tell_info(struct bpf_sockopt *ctx)
{
	struct seat *s = bpf_sk_storage_get(&seats, ctx->sk, 0, 0);
	struct hardware_part h = {};
	struct counts sum;
	int owned = 0;
	struct block *b;
	u64 hwid;

	if (!s)
		return;
	hwid = s->hwid;
	b = hwid ? block_of(s) : 0;
	if (b && read_hardware(b, hwid, &h)) {
		struct counts c = { h.retransmits, h.bytes_resent,
				    h.out_of_order };

		owned = h.place == PLACE_OWNED;
		bpf_spin_lock(&s->lock);
		if (s->hwid == hwid)
			take_counts(s, hwid, &c);
		bpf_spin_unlock(&s->lock);
	}
	bpf_spin_lock(&s->lock);
	sum.retransmits = s->before.retransmits + s->last.retransmits;
	sum.bytes_resent = s->before.bytes_resent + s->last.bytes_resent;
	sum.out_of_order = s->before.out_of_order + s->last.out_of_order;
	bpf_spin_unlock(&s->lock);
	info_add(ctx, &sum);
	if (owned)
		info_path(ctx, &h);
}

/* In a function of its own, since both have a stack to fill. */
static __attribute__((noinline)) int tell_bypass(struct bpf_sockopt *ctx)
{
	struct seat *s = bpf_sk_storage_get(&seats, ctx->sk, 0, 0);

	if (s)
		tell_stream(ctx, s);
	return 0;
}

/* Fills in as many fields as there is room for. A socket that nothing is
 * known of is in the kernel. */
static ALWAYS_INLINE void tell_offload(struct bpf_sockopt *ctx)
{
	struct seat *s = bpf_sk_storage_get(&seats, ctx->sk, 0, 0);
	struct answer *a = ctx->optval;
	void *end = ctx->optval_end;
	int len = 0;

	if ((void *)(a + 1) <= end) {
		len = sizeof(*a);
		__builtin_memset(a, 0, sizeof(*a));
		if (s)
			__builtin_memcpy(a->reason, s->reason,
					 sizeof(a->reason));
	} else if ((void *)a->reason <= end) {
		len = 16;
	} else if ((void *)&a->wish <= end) {
		len = 4;
	} else {
		bpf_set_retval(-EINVAL);
		return;
	}
	if ((void *)&a->wish <= end)
		a->place = s ? s->place : SEAT_KERNEL;
	if ((void *)a->reason <= end) {
		a->wish = s ? s->wish : WISH_AUTO;
		a->hwid = s ? s->hwid : 0;
	}
	ctx->optlen = len;
	ctx->retval = 0;
}

/* The option is for plain TCP sockets of the driver's namespace; to others the
 * kernel says that there is none. */
static ALWAYS_INLINE int ours(struct bpf_sockopt *ctx)
{
	return ctx->optname == TOEHOLD_OFFLOAD &&
	       ctx->sk->protocol == IPPROTO_TCP &&
	       bpf_get_netns_cookie(ctx) == netns;
}

SEC("cgroup/getsockopt")
int tell(struct bpf_sockopt *ctx)
{
	leave_too_long(ctx);
	if (ctx->level != SOL_TCP)
		return 1;
	if (ctx->optname == TCP_INFO && ctx->retval == 0) {
		tell_info(ctx);
		tell_bypass(ctx);
	}
	if (ours(ctx))
		tell_offload(ctx);
	return 1;
}

/* key_of for what a socket looks like here. */
static ALWAYS_INLINE void key_of_sk(struct bpf_sock *sk, struct flow_key *k)
{
	u32 a[4] = { sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2],
		     sk->src_ip6[3] };
	u32 b[4] = { sk->dst_ip6[0], sk->dst_ip6[1], sk->dst_ip6[2],
		     sk->dst_ip6[3] };
	u32 local = sk->src_ip4, remote = sk->dst_ip4;

	k->local_port = htons(sk->src_port);
	k->remote_port = sk->dst_port;
	if (sk->family == AF_INET ||
	    (b[0] == 0 && b[1] == 0 && b[2] == 0xffff0000)) {
		k->family = 4;
		__builtin_memcpy(k->local, &local, 4);
		__builtin_memcpy(k->remote, &remote, 4);
		return;
	}
	k->family = 6;
	__builtin_memcpy(k->local, a, 16);
	__builtin_memcpy(k->remote, b, 16);
}

/* Wakes the driver, once until it has looked. */
static ALWAYS_INLINE int wake(struct bpf_sock *sk, struct seat *s, u32 wish,
			      u32 verdict)
{
	struct wake w = { .wish = wish, .verdict = verdict };
	int woken;

	bpf_spin_lock(&s->lock);
	woken = s->asked;
	s->asked = 1;
	bpf_spin_unlock(&s->lock);
	if (woken)
		return 0;
	key_of_sk(sk, &w.key);
	if (bpf_ringbuf_output(&wakes, &w, sizeof(w), 0) == 0)
		return 0;
	s->asked = 0;
	return -EAGAIN;
}

static ALWAYS_INLINE int take_wish(struct bpf_sockopt *ctx, int len)
{
	u32 *value = ctx->optval, state, wish;
	struct seat *s;

	if (forbidden)
		return -EPERM;
	/* The buffer may be longer than what the program gave. */
	if (len < (int)sizeof(*value) ||
	    (void *)(value + 1) > ctx->optval_end || *value >= WISHES)
		return -EINVAL;
	wish = *value;
	state = ctx->sk->state;
	if (wish == WISH_NOW && state != TCP_ESTABLISHED &&
	    state != TCP_CLOSE_WAIT)
		return -ENOTCONN;
	s = bpf_sk_storage_get(&seats, ctx->sk, 0,
			       BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return -EAGAIN;
	s->wish = wish;
	if (wish == WISH_AUTO ||
	    (wish == WISH_NEVER && s->place == SEAT_KERNEL))
		return 0;
	return wake(ctx->sk, s, wish, 0);
}

/* The kernel does not see what was for us (optlen -1). */
SEC("cgroup/setsockopt")
int ask(struct bpf_sockopt *ctx)
{
	int refused, len = ctx->optlen;

	leave_too_long(ctx);
	if (ctx->level != SOL_TCP || !ours(ctx))
		return 1;
	refused = take_wish(ctx, len);
	ctx->optlen = -1;
	if (!refused)
		return 1;
	bpf_set_retval(refused);
	return 0;
}

enum {
	ACTIVE_ESTABLISHED = 4, /* BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB */
	PASSIVE_ESTABLISHED = 5,
};

/* Judges a connection that has just been established, without a way to the
 * driver and back: it is woken only for those that are to move now. */
SEC("sockops")
int established(struct bpf_sock_ops *ctx)
{
	struct policy_facts facts = {};
	struct judging j = { .facts = &facts };
	struct tcp_sock *tp;
	struct bpf_sock *sk;
	struct seat *s;
	u32 zero = 0;

	if (ctx->op != ACTIVE_ESTABLISHED && ctx->op != PASSIVE_ESTABLISHED)
		return 1;
	sk = ctx->sk;
	j.table = bpf_map_lookup_elem(&policies, &zero);
	if (!sk || !j.table)
		return 1;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp || ((struct sock *)tp)->__sk_common.skc_net.net->net_cookie !=
			   netns)
		return 1;
	read_facts(tp, &facts);
	judge(&j);
	if (j.verdict == VERDICT_LATER)
		return 1;
	s = bpf_sk_storage_get(&seats, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 1;
	s->verdict = j.verdict;
	s->rule = j.rule;
	if (j.verdict == VERDICT_NOW)
		wake(sk, s, WISH_AUTO, VERDICT_NOW);
	return 1;
}

enum { USHERED = 256 };

enum { /* order.set: what of the seat to write */
	SET_PLACE = 1 << 0,
	SET_COUNTS = 1 << 1,
	SET_REASON = 1 << 2,
	SET_HEARD = 1 << 3, /* the driver has heard the program's wish */
	SET_DIVERTED = 1 << 4, /* S is bypassed from now on */
	SET_KEPT = 1 << 5, /* and is about to be taken apart */
	SET_REBUILT = 1 << 6, /* and has been rebuilt */
};

/* A flow, and what to write into its socket's seat. wish, verdict and rule are
 * the answer. */
struct order {
	struct flow_key key;
	u32 set, table;
	u64 hwid;
	u32 place, wish;
	u64 counted;
	struct counts counts;
	u8 reason[40];
	u16 verdict, rule;
	u8 zero[4];
};

struct orders {
	u32 count, done;
	struct order order[USHERED];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct orders);
} orders SEC(".maps");

static ALWAYS_INLINE void carry_out(struct seat *s, struct order *o)
{
	u32 set = o->set;
	u64 hwid = o->hwid, counted = o->counted;
	u32 place = o->place, table = o->table;
	struct counts c = o->counts;

	bpf_spin_lock(&s->lock);
	if (set & SET_COUNTS)
		take_counts(s, counted, &c);
	if (set & SET_PLACE) {
		s->hwid = hwid;
		s->table = table;
		s->place = place;
	}
	if (set & SET_HEARD)
		s->asked = 0;
	bpf_spin_unlock(&s->lock);
	if (set & SET_REASON)
		__builtin_memcpy(s->reason, o->reason, sizeof(s->reason));
	o->wish = s->wish;
	o->verdict = s->verdict;
	o->rule = s->rule;
}

static ALWAYS_INLINE void divert(struct seat *s)
{
	struct block *b = block_of(s);

	if (!b)
		return;
	s->segs_out = b->hardware.segs_sent;
	s->segs_in = b->hardware.segs_received;
	s->acked = s->sent = 0;
	s->diverted = s->hwid;
}

static ALWAYS_INLINE void keep(struct seat *s, struct tcp_sock *tp)
{
	u64 diverted = s->diverted;
	struct block *b = diverted && diverted == s->hwid ? block_of(s) : 0;
	struct stream x = {};

	if (b)
		count_bypass(b, s, &x);
	keep_stream(s, tp, &x);
}

/* The program does not run meanwhile, or nothing has changed yet for it. */
static ALWAYS_INLINE void carry_out_bypass(struct seat *s, struct tcp_sock *tp,
					   u32 set)
{
	if (set & SET_DIVERTED)
		divert(s);
	if (set & SET_KEPT)
		keep(s, tp);
	if (set & SET_REBUILT)
		resume_stream(s, tp);
}

struct context {
	struct __sk_buff *skb;
	struct orders *orders;
};

static long each(u32 i, struct context *c)
{
	struct sock_common *skc;
	struct tcp_sock *tp;
	struct order *o;
	struct seat *s;

	if (i >= USHERED)
		return 1;
	o = &c->orders->order[i];
	o->wish = WISH_AUTO;
	skc = lookup(c->skb, &o->key);
	if (!skc)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (tp && tp->inet_conn.icsk_inet.sk.__sk_common.skc_state !=
			  TCP_LISTEN) {
		s = bpf_sk_storage_get(&seats, tp, 0,
				       o->set & (SET_PLACE | SET_REASON) ?
					       BPF_SK_STORAGE_GET_F_CREATE :
					       0);
		if (s) {
			carry_out(s, o);
			carry_out_bypass(s, tp, o->set);
		}
	}
	bpf_sk_release(skc);
	return 0;
}

SEC("tc")
int usher(struct __sk_buff *skb)
{
	u32 zero = 0;
	struct context c = {
		.skb = skb,
		.orders = bpf_map_lookup_elem(&orders, &zero),
	};

	if (!c.orders)
		return 0;
	bpf_loop(c.orders->count, each, &c, 0);
	c.orders->done = c.orders->count;
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
