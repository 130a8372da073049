// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Channels: what the program of a bypassed connection sends on its socket S
 * goes straight to a socket C of ours, and what is sent on C to S, by a
 * sockmap. The block of the connection tells of it (struct channel_part).
 *
 * The device can write that memory too. So whatever keeps the kernel's queues
 * bounded is counted in ties, which nobody maps, and only copied to the block.
 */
#include "kernel.h"
#include "toehold.h"

enum {
	SOL_IP = 0,
	SOL_SOCKET = 1,
	SOL_TCP = 6,
	SOL_IPV6 = 41,
	SO_SNDBUF = 7,
	SO_RCVLOWAT = 18,
	SO_SNDBUFFORCE = 32,
	SO_PEEK_OFF = 42,
	SO_ZEROCOPY = 60,
	TCP_NODELAY = 1,
	TCP_CORK = 3,
	TCP_USER_TIMEOUT = 18,
	TCP_NOTSENT_LOWAT = 25,
	TCP_ULP = 31,
	ENOENT = 2,
	MSG_PEEK = 0x2,
	MSG_ERRQUEUE = 0x2000,
	RCV_SHUTDOWN = 1,
	SEND_SHUTDOWN = 2,
	MOST_IN_CHANNEL = 4 << 20, /* abi.RingSize */
};

enum {
	ROLE_S,
	ROLE_C,
};

/* By the number of the tie, so that a socket of a connection that is over can
 * stay where it is: what it was given is to be read. It leaves when its program
 * closes it. */
struct socket_key {
	u64 number;
	u32 role, zero;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_SOCKHASH);
	MAP_UINT(max_entries, 2); /* set when loaded */
	MAP_TYPE(key, struct socket_key);
	MAP_TYPE(value, u64);
} sockets SEC(".maps");

/* What is known of a pair that is tied. All octets are since then. */
struct tie {
	u64 number;	  /* differs from tie to tie; 0: none */
	u64 out, taken;	  /* redirected to C, received from it */
	u64 in, read;	  /* redirected to S, received from it */
	u32 notsent_lowat; /* of S before it was tied */
	u32 zero;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1); /* set when loaded */
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct tie);
} ties SEC(".maps");

/* Which tie a socket is, or was, part of; index is that of the block. */
struct end {
	u64 number;
	u32 index, role;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_SK_STORAGE);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, int);
	MAP_TYPE(value, struct end);
} ends SEC(".maps");

/* The Set's. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct block);
} blocks SEC(".maps");

/* A tie and what its block says of it. */
struct view {
	struct tie *tie;
	struct channel_part *channel;
};

static ALWAYS_INLINE int look(const struct end *e, struct view *v)
{
	u32 index;
	struct block *b;

	if (!e)
		return 0;
	index = e->index;
	v->tie = bpf_map_lookup_elem(&ties, &index);
	b = bpf_map_lookup_elem(&blocks, &index);
	if (!v->tie || !b || v->tie->number != e->number)
		return 0;
	v->channel = &b->channel;
	return 1;
}

/* Whether what the program sends now is for C. Everything that is in C is
 * older than what is in S's own queue, so that must be empty. Counting the
 * latter would go wrong: a send may be taken in part. What is sent after a
 * shutdown, or a reset, S's TCP refuses. */
static ALWAYS_INLINE int has_room(struct sk_msg_md *msg, const struct view *v)
{
	u64 limit = *(volatile u32 *)&v->channel->limit;
	struct tcp_sock *tp;

	if (!*(volatile u32 *)&v->channel->open)
		return 0;
	if (limit > MOST_IN_CHANNEL)
		limit = MOST_IN_CHANNEL;
	if ((s64)(v->tie->out - *(volatile u64 *)&v->tie->taken) >= (s64)limit)
		return 0;
	tp = msg->sk ? bpf_skc_to_tcp_sock(msg->sk) : 0;
	return tp && tp->write_seq == tp->snd_una &&
	       !(((struct sock *)tp)->sk_shutdown & SEND_SHUTDOWN);
}

static ALWAYS_INLINE int from_program(struct sk_msg_md *msg, const struct view *v,
				      u32 size)
{
	struct socket_key to = { v->tie->number, ROLE_C };

	if (!has_room(msg, v) || bpf_msg_redirect_hash(msg, &sockets, &to,
						       BPF_F_INGRESS) != SK_PASS) {
		__sync_fetch_and_add(&v->channel->passed, 1);
		return SK_PASS;
	}
	__sync_fetch_and_add(&v->tie->out, size);
	__sync_fetch_and_add(&v->channel->out, size);
	v->channel->out_at = bpf_ktime_get_coarse_ns() / 1000000;
	return SK_PASS;
}

/* C has no peer that could take what does not go to S. */
static ALWAYS_INLINE int from_device(struct sk_msg_md *msg, const struct view *v,
				     u32 size)
{
	struct socket_key to = { v->tie->number, ROLE_S };

	if (bpf_msg_redirect_hash(msg, &sockets, &to, BPF_F_INGRESS) != SK_PASS)
		return SK_DROP;
	__sync_fetch_and_add(&v->tie->in, size);
	__sync_fetch_and_add(&v->channel->in, size);
	return SK_PASS;
}

/* The sender's lock is held. */
SEC("sk_msg")
int verdict(struct sk_msg_md *msg)
{
	struct end *e = msg->sk ? bpf_sk_storage_get(&ends, msg->sk, 0, 0) : 0;
	u32 size = msg->size;
	struct view v;
	int tied = look(e, &v);

	asm volatile("" : "+r"(size)); /* the verifier wants it read once */
	if (!e)
		return SK_PASS;
	if (e->role == ROLE_C)
		return tied ? from_device(msg, &v, size) : SK_DROP;
	return tied ? from_program(msg, &v, size) : SK_PASS;
}

static ALWAYS_INLINE u64 least(u64 a, u64 b)
{
	return a < b ? a : b;
}

/* A call that received from S's own queue may come here after the first octets
 * of C are in; a call may come here between the count of what is sent on C and
 * its arrival. So two things are known that read cannot be more than, and the
 * lesser is right when all is quiet. A FIN takes memory too.
 *
 * Two threads may read at once. Who stores last looks whether the other has
 * counted since it looked itself, so that what stays is of both. */
static ALWAYS_INLINE void program_read(struct sock *sk, const struct view *v,
				       u32 octets)
{
	u64 in, counted, read, held;
	int tries;

	if (!*(volatile u64 *)&v->tie->in)
		return;
	__sync_fetch_and_add(&v->tie->read, octets);
	for (tries = 0; tries < 8; tries++) {
		counted = read = *(volatile u64 *)&v->tie->read;
		in = *(volatile u64 *)&v->tie->in;
		held = READ(sk, sk_backlog.rmem_alloc.counter);
		if (!(READ(sk, sk_shutdown) & RCV_SHUTDOWN) && held <= in)
			read = least(read, in - held);
		*(volatile u64 *)&v->channel->read = least(read, in);
		if (__sync_fetch_and_add(&v->tie->read, 0) == counted)
			break;
	}
	if (octets)
		v->channel->read_at = bpf_ktime_get_ns();
}

/* After every recvmsg of every socket, without a lock. */
SEC("tp_btf/sock_recv_length")
int received(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	int octets = ctx[1], flags = ctx[2];
	struct end *e = bpf_sk_storage_get(&ends, sk, 0, 0);
	struct view v;

	if (!e || octets < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE) ||
	    !look(e, &v))
		return 0;
	if (e->role == ROLE_S)
		program_read(sk, &v, octets);
	else
		v.channel->taken = __sync_fetch_and_add(&v.tie->taken, octets) +
				   octets;
	return 0;
}

static ALWAYS_INLINE void flag(const struct view *v, u32 flags)
{
	__sync_fetch_and_or(&v->channel->flags, flags);
}

/* Whether something of C waits for the program. */
static ALWAYS_INLINE int has_unread(struct sock *sk)
{
	struct sk_psock *p = psock_of(sk);

	return p && READ(p, ingress_msg.next) !=
			    __builtin_preserve_access_index(&p->ingress_msg);
}

/* Before the last close of a socket sends anything. The context is the
 * socket itself, as a number. */
SEC("cgroup/sock_release")
int released(struct bpf_sock *ctx)
{
	struct end *e = bpf_sk_storage_get(&ends, ctx, 0, 0);
	struct view v;

	if (e && e->role == ROLE_S && look(e, &v))
		flag(&v, has_unread((void *)ctx) ?
				 CHANNEL_CLOSED | CHANNEL_LEFT_UNREAD :
				 CHANNEL_CLOSED);
	return 1;
}

/* Whether the value of an option is this; one that is too short is none. */
static ALWAYS_INLINE int is_set_to(struct bpf_sockopt *ctx, u32 wanted)
{
	u32 *value = ctx->optval;

	return (void *)(value + 1) <= ctx->optval_end && *value == wanted;
}

static ALWAYS_INLINE u32 tcp_option_ends_bypass(struct bpf_sockopt *ctx)
{
	switch (ctx->optname) {
	case TCP_NOTSENT_LOWAT:
		return CHANNEL_NOTSENT_LOWAT;
	case TCP_CORK:
	case TCP_USER_TIMEOUT:
		return is_set_to(ctx, 0) ? 0 : CHANNEL_OPTION;
	case TCP_NODELAY:
		return is_set_to(ctx, 0) ? CHANNEL_OPTION : 0;
	}
	return 0;
}

static ALWAYS_INLINE u32 ends_bypass(struct bpf_sockopt *ctx)
{
	if (ctx->level == SOL_TCP)
		return tcp_option_ends_bypass(ctx);
	if (ctx->level == SOL_IP || ctx->level == SOL_IPV6)
		return CHANNEL_OPTION; /* the header is that of S's frames */
	if (ctx->level != SOL_SOCKET)
		return 0;
	switch (ctx->optname) {
	case SO_ZEROCOPY:
		return CHANNEL_ZEROCOPY;
	case SO_RCVLOWAT:
		return is_set_to(ctx, 1) ? 0 : CHANNEL_RCVLOWAT;
	case SO_PEEK_OFF:
		return is_set_to(ctx, -1) ? 0 : CHANNEL_RCVLOWAT;
	case SO_SNDBUF:
	case SO_SNDBUFFORCE:
		return CHANNEL_OPTION;
	}
	return 0;
}

/* Before an option takes effect. An upper-layer protocol would have what it is
 * to encrypt go to the channel as it is. The program is told that there is none,
 * as by a kernel without it. */
SEC("cgroup/setsockopt")
int setting(struct bpf_sockopt *ctx)
{
	int layer = ctx->level == SOL_TCP && ctx->optname == TCP_ULP;
	u32 flags = ends_bypass(ctx);
	struct end *e;
	struct view v;

	leave_too_long(ctx);
	if (!flags && !layer)
		return 1;
	e = bpf_sk_storage_get(&ends, ctx->sk, 0, 0);
	if (!e || e->role != ROLE_S || !look(e, &v))
		return 1;
	if (layer) {
		bpf_set_retval(-ENOENT);
		return 0;
	}
	flag(&v, flags);
	return 1;
}

/* S has a TCP_NOTSENT_LOWAT of ours while it is tied; its program is told its
 * own. */
SEC("cgroup/getsockopt")
int telling(struct bpf_sockopt *ctx)
{
	u32 *value = ctx->optval;
	struct end *e;
	struct view v;

	leave_too_long(ctx);
	if (ctx->level != SOL_TCP || ctx->optname != TCP_NOTSENT_LOWAT ||
	    ctx->retval != 0 || ctx->optlen != (int)sizeof(*value) ||
	    (void *)(value + 1) > ctx->optval_end)
		return 1;
	e = bpf_sk_storage_get(&ends, ctx->sk, 0, 0);
	if (e && e->role == ROLE_S && look(e, &v) &&
	    !(v.channel->flags & CHANNEL_NOTSENT_LOWAT))
		*value = v.tie->notsent_lowat;
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
