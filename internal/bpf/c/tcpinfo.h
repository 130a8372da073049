/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct tcp_info in the buffer of a getsockopt. Programs built for older
 * kernels have a shorter one: each field is changed only if there is room
 * for it. */
#ifndef TOEHOLD_TCPINFO_H
#define TOEHOLD_TCPINFO_H

#include "bypass.h"

struct tcp_info { /* include/uapi/linux/tcp.h */
	u8 state, ca_state, retransmits, probes, backoff, options;
	u8 wscales, flags;
	u32 rto, ato, snd_mss, rcv_mss;
	u32 unacked, sacked, lost, retrans, fackets;
	u32 last_data_sent, last_ack_sent, last_data_recv, last_ack_recv;
	u32 pmtu, rcv_ssthresh, rtt, rttvar, snd_ssthresh, snd_cwnd, advmss,
		reordering;
	u32 rcv_rtt, rcv_space, total_retrans;
	u64 pacing_rate, max_pacing_rate, bytes_acked, bytes_received;
	u32 segs_out, segs_in, notsent_bytes, min_rtt;
	u32 data_segs_in, data_segs_out;
	u64 delivery_rate, busy_time, rwnd_limited, sndbuf_limited;
	u32 delivered, delivered_ce;
	u64 bytes_sent, bytes_retrans;
	u32 dsack_dups, reord_seen, rcv_ooopack, snd_wnd, rcv_wnd;
};

#define HAS_ROOM(i, end, field) ((void *)(&(i)->field + 1) <= (end))
#define PUT(i, end, field, value)           \
	do {                                \
		if (HAS_ROOM(i, end, field)) \
			(i)->field = value; \
	} while (0)
#define ADD(i, end, field, value)            \
	do {                                 \
		if (HAS_ROOM(i, end, field))  \
			(i)->field += value; \
	} while (0)

/* Adds what devices counted: S's own counts go on beside them. */
static ALWAYS_INLINE void info_add(struct bpf_sockopt *ctx,
				   const struct counts *c)
{
	struct tcp_info *i = ctx->optval;
	void *end = ctx->optval_end;

	ADD(i, end, total_retrans, c->retransmits);
	ADD(i, end, segs_out, c->retransmits);
	ADD(i, end, data_segs_out, c->retransmits);
	ADD(i, end, bytes_sent, c->bytes_resent);
	ADD(i, end, bytes_retrans, c->bytes_resent);
	ADD(i, end, rcv_ooopack, c->out_of_order);
}

/* Adds what S does not count, or not any more (bypass.h). */
static ALWAYS_INLINE void info_stream(struct bpf_sockopt *ctx,
				      const struct stream *x)
{
	struct tcp_info *i = ctx->optval;
	void *end = ctx->optval_end;

#define ADD_OF(f) ADD(i, end, f, x->f);
	EACH_OF_STREAM(ADD_OF)
#undef ADD_OF
}

static ALWAYS_INLINE u32 least_u32(u32 a, u32 b)
{
	return a < b ? a : b;
}

/* Times in ms since something was. What is sent and received by the channel is
 * known from the program's side. */
static ALWAYS_INLINE void info_channel(struct bpf_sockopt *ctx,
				       const struct channel_part *c, u32 unsent)
{
	struct tcp_info *i = ctx->optval;
	void *end = ctx->optval_end;
	u64 now = bpf_ktime_get_ns(), read_at = c->read_at;
	u32 ms = now / 1000000 - read_at / 1000000;

	if (now < read_at)
		ms = 0;
	ADD(i, end, notsent_bytes, unsent);
	if (c->out && HAS_ROOM(i, end, last_data_sent))
		i->last_data_sent = least_u32(i->last_data_sent,
					      (u32)(now / 1000000) - c->out_at);
	if (read_at && HAS_ROOM(i, end, last_data_recv))
		i->last_data_recv = least_u32(i->last_data_recv, ms);
	if (read_at && HAS_ROOM(i, end, last_ack_recv))
		i->last_ack_recv = least_u32(i->last_ack_recv, ms);
}

/* hardware_part.recovery as icsk_ca_state: TCP_CA_Open, TCP_CA_Recovery,
 * TCP_CA_Loss, TCP_CA_CWR. */
static ALWAYS_INLINE u8 ca_state_of(u8 recovery)
{
	return recovery == 1 ? 3 : recovery == 2 ? 4 : recovery == 3 ? 2 : 0;
}

/* Puts what the device knows of the path in the place of what S knows of its
 * hop to the device. The path's MTU is S's unless the device had to find a
 * smaller one itself. */
static ALWAYS_INLINE void info_path(struct bpf_sockopt *ctx,
				    const struct hardware_part *h)
{
	struct tcp_info *i = ctx->optval;
	void *end = ctx->optval_end;

	PUT(i, end, ca_state, ca_state_of(h->recovery));
	PUT(i, end, rto, h->rto);
	if (HAS_ROOM(i, end, pmtu) && h->mss && h->mss < i->snd_mss) {
		i->pmtu -= i->snd_mss - h->mss;
		i->snd_mss = h->mss;
	}
	PUT(i, end, unacked, h->unacked);
	PUT(i, end, sacked, h->sacked);
	PUT(i, end, lost, h->lost);
	PUT(i, end, retrans, h->resent);
	PUT(i, end, rtt, h->srtt);
	PUT(i, end, rttvar, h->rttvar);
	PUT(i, end, min_rtt, h->min_rtt);
	PUT(i, end, snd_cwnd, h->cwnd);
	PUT(i, end, snd_ssthresh, h->ssthresh);
	PUT(i, end, snd_wnd, h->snd_wnd);
	PUT(i, end, rcv_wnd, h->rcv_wnd);
	if (h->pacing_rate)
		PUT(i, end, pacing_rate, h->pacing_rate);
	if (h->delivery_rate)
		PUT(i, end, delivery_rate, h->delivery_rate);
}

#endif
