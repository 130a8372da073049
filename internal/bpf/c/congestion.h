/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The private state of congestion controls. It means something only to the
 * one that the socket has, so the name is compared first; of others, and of
 * versions that look different, nothing is read or written. */
#ifndef TOEHOLD_CONGESTION_H
#define TOEHOLD_CONGESTION_H

#include "kernel.h"
#include "toehold.h"

enum {
	MOST = 1 << 20, /* segments; more is not to be believed */
	LONGEST = 256,	/* s of an epoch: cubic's cube of more overflows */
};

/* Names, as the first word of them. */
#define RENO 0x6f6e6572
#define CUBIC 0x6369627563
#define DCTCP 0x7063746364
#define BBR 0x726262

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

static ALWAYS_INLINE u32 at_most(u32 v, u32 most)
{
	return v < most ? v : most;
}

/* The jiffy so many ms ago. */
static ALWAYS_INLINE u32 ago(u32 ms)
{
	return (u32)bpf_jiffies64() -
	       (u32)(((u64)ms * 1000 + tick_us / 2) / tick_us);
}

/* What has just been initialised gets what read_cubic read. */
static ALWAYS_INLINE void write_cubic(struct bictcp *q,
				      const struct cubic_state *k)
{
	u32 epoch;

	if (!HAS(q, delay_min) || !HAS(q, tcp_cwnd) || !HAS(q, found))
		return;
	q->last_max_cwnd = at_most(k->last_max_cwnd, MOST);
	q->delay_min = k->delay_min;
	q->found = !!k->found;
	if (!k->in_epoch)
		return;
	q->bic_origin_point = at_most(k->origin, MOST);
	q->tcp_cwnd = at_most(k->tcp_cwnd, MOST);
	q->bic_K = at_most((((u64)k->k << 10) + 500000) / 1000000,
			   LONGEST << 10);
	epoch = ago(at_most(k->epoch_age, LONGEST * 1000));
	q->epoch_start = epoch ? epoch : 1; /* 0: there is none */
}

/* rate_of the other way round. */
static ALWAYS_INLINE u32 packets_of(u64 rate, u32 mss)
{
	if (rate >> 40) /* octets a second */
		rate = 1ull << 40;
	return saturated(((rate << 16) / 1000000 << 8) / mss);
}

static ALWAYS_INLINE int bits_can_be_set(struct bbr *b)
{
	return IN_WORD(b, mode) && IN_WORD(b, lt_use_bw) &&
	       IN_WORD(b, pacing_gain) && IN_WORD(b, cwnd_gain) &&
	       IN_WORD(b, full_bw_reached) && IN_WORD(b, full_bw_cnt) &&
	       IN_WORD(b, cycle_idx) && IN_WORD(b, has_seen_rtt);
}

/* What has just been initialised gets what read_bbr read. It is left as it is,
 * and 0 returned, when there is no model. */
static ALWAYS_INLINE int write_bbr(struct bbr *b, u32 mss,
				   const struct bbr_state *k)
{
	u32 bw;

	if (!HAS(b, bw) || !HAS(b, extra_acked) || !bits_can_be_set(b) ||
	    !mss || !k->bandwidth || !k->min_rtt)
		return 0;
	bw = packets_of(k->bandwidth, mss);
	b->bw.s[0].v = b->bw.s[1].v = b->bw.s[2].v = bw; /* in round 0 */
	b->full_bw = packets_of(k->full_bandwidth, mss);
	b->min_rtt_us = k->min_rtt;
	b->min_rtt_stamp = ago(k->min_rtt_age);
	b->cycle_mstamp = bpf_ktime_get_ns() / 1000 - k->cycle_age;
	b->prior_cwnd = at_most(k->prior_cwnd, MOST);
	b->extra_acked[0] = at_most(k->extra_acked, 0xffff);
	if (k->long_term) {
		b->lt_bw = packets_of(k->long_term, mss);
		SET_BITS(b, lt_use_bw, 1);
	}
	SET_BITS(b, mode, k->mode & 3);
	SET_BITS(b, pacing_gain, at_most(k->pacing_gain, 1023));
	SET_BITS(b, cwnd_gain, at_most(k->cwnd_gain, 1023));
	SET_BITS(b, full_bw_reached, !!k->filled);
	SET_BITS(b, full_bw_cnt, at_most(k->full_count, 3));
	SET_BITS(b, cycle_idx, k->cycle_index & 7);
	SET_BITS(b, has_seen_rtt, 1); /* else the next segment paces by cwnd */
	return 1;
}

/* The rate that bbr paces at (bbr_bw_to_pacing_rate). */
static ALWAYS_INLINE u64 pace_of(const struct bbr_state *k)
{
	u64 rate = k->long_term ? k->long_term : k->bandwidth;

	if (rate >> 40)
		rate = 1ull << 40;
	return (rate * at_most(k->pacing_gain, 1023) >> 8) / 100 * 99;
}

/* Fills in what belongs to the name in k. */
static ALWAYS_INLINE void read_congestion(struct tcp_sock *tp,
					  struct kernel_state *k)
{
	void *priv = __builtin_preserve_access_index(
		&tp->inet_conn.icsk_ca_priv);

	switch (*(u64 *)k->congestion_control) {
	case CUBIC:
		read_cubic(priv, &k->cubic);
		break;
	case DCTCP:
		read_dctcp(priv, &k->dctcp);
		break;
	case BBR:
		read_bbr(priv, k->mss, &k->bbr);
		break;
	}
}

#endif
