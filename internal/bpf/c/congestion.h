/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The private state of congestion controls. It means something only to the
 * one that the socket has, so the name is compared first; of others, and of
 * versions that look different, nothing is read. */
#ifndef TOEHOLD_CONGESTION_H
#define TOEHOLD_CONGESTION_H

#include "kernel.h"
#include "toehold.h"

/* Microseconds of a jiffy (TICK_USEC), set when loaded. */
volatile const u32 tick_us = 4000;

static ALWAYS_INLINE u32 saturated(u64 v)
{
	return v > 0xffffffff ? 0xffffffff : v;
}

static ALWAYS_INLINE u32 ms_of(u32 jiffies)
{
	return saturated((u64)jiffies * tick_us / 1000);
}

static ALWAYS_INLINE u32 ms_since(u32 jiffies)
{
	return ms_of((u32)bpf_jiffies64() - jiffies);
}

static ALWAYS_INLINE void read_cubic(struct bictcp *q, struct cubic_state *k)
{
	u32 epoch;

	if (!HAS(q, delay_min) || !HAS(q, tcp_cwnd) || !HAS(q, found))
		return;
	k->last_max_cwnd = READ(q, last_max_cwnd);
	k->origin = READ(q, bic_origin_point);
	k->tcp_cwnd = READ(q, tcp_cwnd);
	k->k = saturated((u64)READ(q, bic_K) * 1000000 >> 10); /* BICTCP_HZ */
	k->delay_min = READ(q, delay_min);
	k->found = READ(q, found);
	epoch = READ(q, epoch_start);
	if (!epoch)
		return;
	k->in_epoch = 1;
	k->epoch_age = ms_since(epoch);
}

static ALWAYS_INLINE void read_dctcp(struct dctcp *d, struct dctcp_state *k)
{
	if (!HAS(d, dctcp_alpha) || !HAS(d, ce_state) || !HAS(d, loss_cwnd))
		return;
	k->alpha = READ(d, dctcp_alpha);
	k->loss_cwnd = READ(d, loss_cwnd);
	k->ce = READ(d, ce_state);
}

/* Octets a second of packets a microsecond, in fixed point (BW_SCALE), as
 * bbr_rate_bytes_per_sec does. */
static ALWAYS_INLINE u64 rate_of(u32 bw, u32 mss)
{
	return ((u64)bw * (mss & 0xffff) >> 8) * 1000000 >> 16;
}

static ALWAYS_INLINE void read_bbr(struct bbr *b, u32 mss, struct bbr_state *k)
{
	u32 a, z;

	if (!HAS(b, bw) || !HAS(b, lt_use_bw) || !HAS(b, extra_acked))
		return;
	k->bandwidth = rate_of(READ(b, bw.s[0].v), mss);
	k->full_bandwidth = rate_of(READ(b, full_bw), mss);
	if (BITS(b, lt_use_bw))
		k->long_term = rate_of(READ(b, lt_bw), mss);
	k->min_rtt = READ(b, min_rtt_us);
	k->min_rtt_age = ms_since(READ(b, min_rtt_stamp));
	k->cycle_age =
		saturated(bpf_ktime_get_ns() / 1000 - READ(b, cycle_mstamp));
	k->prior_cwnd = READ(b, prior_cwnd);
	a = READ(b, extra_acked[0]);
	z = READ(b, extra_acked[1]);
	k->extra_acked = a > z ? a : z;
	k->pacing_gain = BITS(b, pacing_gain);
	k->cwnd_gain = BITS(b, cwnd_gain);
	k->mode = BITS(b, mode);
	k->cycle_index = BITS(b, cycle_idx);
	k->full_count = BITS(b, full_bw_cnt);
	k->filled = BITS(b, full_bw_reached);
}

/* Fills in what belongs to the name in k. */
static ALWAYS_INLINE void read_congestion(struct tcp_sock *tp,
					  struct kernel_state *k)
{
	void *priv = __builtin_preserve_access_index(
		&tp->inet_conn.icsk_ca_priv);

	switch (*(u64 *)k->congestion_control) {
	case 0x6369627563: /* cubic */
		read_cubic(priv, &k->cubic);
		break;
	case 0x7063746364: /* dctcp */
		read_dctcp(priv, &k->dctcp);
		break;
	case 0x726262: /* bbr */
		read_bbr(priv, k->mss, &k->bbr);
		break;
	}
}

#endif
