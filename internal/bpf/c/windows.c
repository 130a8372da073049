// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Congestion windows, and what congestion controls know beside, for
 * connections that come home. While the device had one, S saw no loss, so its
 * own means nothing.
 *
 * Only a congestion control may write a socket's window. So the socket is lent
 * one, whose first and only deed is to write, and at once has its own back.
 * Both happen under the socket's lock. There are two ways:
 *
 * By setsockopt of user space, on a descriptor of the socket: then the lent
 * control's init may itself ask for the socket's own one, and goes on when
 * that one's init has run. So it can write its private state.
 *
 * By the iterator, which needs no descriptor: then the kernel refuses a second
 * change within the first (bpf_chg_cc_inprogress of struct tcp_sock), and the
 * iterator gives the socket its own control back, which zeroes its state.
 */
#include "congestion.h"
#include "key.h"

enum {
	SOL_TCP = 6,
	TCP_CONGESTION = 13,
	NAME = 16,
};

struct window {
	struct bbr_state bbr;
	u8 own[NAME]; /* the control that init gives back; zero: none */
	struct cubic_state cubic;
	u32 cwnd, ssthresh; /* segments */
	u8 zero[4];
};

/* What came of a socket that is wanted. */
enum outcome {
	SET = 1,
	SAME,	  /* it had them already */
	FOREIGN,  /* its congestion control has a model of its own */
	REFUSED,  /* the kernel does not let it change */
	REPLACED, /* its own one is gone, and now it has Reno */
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 4096);
	MAP_TYPE(key, struct flow_key);
	MAP_TYPE(value, struct window);
} wanted SEC(".maps");

/* Sections of their own name would be looked for in the kernel's BTF. */
extern u32 tcp_reno_ssthresh(struct sock *sk) SEC(".ksyms");
extern u32 tcp_reno_undo_cwnd(struct sock *sk) SEC(".ksyms");
extern void tcp_reno_cong_avoid(struct sock *sk, u32 ack, u32 acked) SEC(".ksyms");

/* Not above the socket's own limit, which its program may have set. */
static ALWAYS_INLINE void set_cwnd(struct tcp_sock *tp, u32 cwnd)
{
	cwnd = at_most(cwnd, tp->snd_cwnd_clamp);
	if (cwnd && cwnd <= MOST)
		tp->snd_cwnd = cwnd;
}

static ALWAYS_INLINE void set_bbr(struct tcp_sock *tp, struct bbr *b,
				  const struct bbr_state *k)
{
	struct sock *sk = (void *)tp;
	u64 rate = pace_of(k);

	if (!write_bbr(b, tp->mss_cache & 0xffff, k))
		return;
	if (rate > sk->sk_max_pacing_rate)
		rate = sk->sk_max_pacing_rate;
	sk->sk_pacing_rate = rate;
}

SEC("struct_ops")
void lent_init(u64 *ctx)
{
	struct tcp_sock *tp = (void *)ctx[0];
	struct sock *sk = (void *)ctx[0];
	void *priv = __builtin_preserve_access_index(
		&tp->inet_conn.icsk_ca_priv);
	struct flow_key key = {};
	struct window *w;
	u64 own;

	key_of(&sk->__sk_common, &key);
	w = bpf_map_lookup_elem(&wanted, &key);
	if (!w)
		return;
	own = *(u64 *)w->own;
	if (own && bpf_setsockopt(tp, SOL_TCP, TCP_CONGESTION, w->own, NAME))
		return;
	set_cwnd(tp, w->cwnd);
	if (own == BBR) { /* which has no threshold */
		set_bbr(tp, priv, &w->bbr);
		return;
	}
	tp->snd_ssthresh = w->ssthresh < 2 ? 2 : w->ssthresh;
	if (own == CUBIC)
		write_cubic(priv, &w->cubic);
}

/* The rest makes it a Reno, in case a socket cannot have its own back. */
SEC("struct_ops")
u32 lent_ssthresh(u64 *ctx)
{
	return tcp_reno_ssthresh((void *)ctx[0]);
}

SEC("struct_ops")
u32 lent_undo_cwnd(u64 *ctx)
{
	return tcp_reno_undo_cwnd((void *)ctx[0]);
}

SEC("struct_ops")
void lent_cong_avoid(u64 *ctx)
{
	tcp_reno_cong_avoid((void *)ctx[0], ctx[1], ctx[2]);
}

SEC(".struct_ops.link")
struct tcp_congestion_ops lent = {
	.init = (void *)lent_init,
	.ssthresh = (void *)lent_ssthresh,
	.undo_cwnd = (void *)lent_undo_cwnd,
	.cong_avoid = (void *)lent_cong_avoid,
	.name = "toehold", /* with the process's number, when loaded */
};

volatile const char lent_name[NAME] = "toehold";

/* Cubic and Reno start from any window. Others, such as BBR, compute it from
 * what they measure, which goes on through the device, and would lose that. */
static ALWAYS_INLINE int starts_anywhere(const char *name)
{
	const u64 *words = (const u64 *)name;

	return words[0] == CUBIC || words[0] == RENO;
}

static ALWAYS_INLINE int name_of(struct tcp_sock *tp, char *name)
{
	const struct tcp_congestion_ops *cc = READ(&tp->inet_conn, icsk_ca_ops);

	return cc && bpf_probe_read_kernel(
			     name, NAME,
			     __builtin_preserve_access_index(&cc->name)) == 0;
}

static ALWAYS_INLINE u32 set(struct tcp_sock *tp, const struct window *w)
{
	char own[NAME] __attribute__((aligned(8))) = {};
	char lent[NAME], reno[NAME] = "reno";

	if (tp->snd_cwnd == w->cwnd && tp->snd_ssthresh == w->ssthresh)
		return SAME;
	if (!name_of(tp, own) || !starts_anywhere(own))
		return FOREIGN;
	for (u32 i = 0; i < NAME; i++)
		lent[i] = lent_name[i];
	if (bpf_setsockopt(tp, SOL_TCP, TCP_CONGESTION, lent, NAME))
		return REFUSED;
	if (bpf_setsockopt(tp, SOL_TCP, TCP_CONGESTION, own, NAME) == 0)
		return SET;
	bpf_setsockopt(tp, SOL_TCP, TCP_CONGESTION, reno, NAME);
	return REPLACED;
}

SEC("iter/tcp")
int windows(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct flow_key key = {};
	struct tcp_sock *tp;
	struct window *w;
	u32 outcome;

	if (!skc)
		return 0;
	key_of(skc, &key);
	w = bpf_map_lookup_elem(&wanted, &key);
	tp = w ? bpf_skc_to_tcp_sock(skc) : 0;
	if (!tp)
		return 0;
	outcome = set(tp, w);
	bpf_seq_write(ctx->meta->seq, &outcome, sizeof(outcome));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
