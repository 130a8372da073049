/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What TCP_INFO of a bypassed socket counts. While octets cross by the channel,
 * S's own counts stand still, but for what spills; when S is rebuilt they
 * begin anew. */
#ifndef TOEHOLD_BYPASS_H
#define TOEHOLD_BYPASS_H

#include "kernel.h"
#include "seat.h"

static ALWAYS_INLINE u32 ahead(u32 a, u32 b)
{
	return (s32)(a - b) > 0 ? a - b : 0;
}

/* Octets of the ring from sequence number on. */
static ALWAYS_INLINE u32 in_ring(const struct ledger_part *l, u32 from)
{
	return ahead(l->snd_end, ahead(from, l->snd_start) ? from : l->snd_start);
}

/* Reads what the device publishes, as read_hardware does. */
static ALWAYS_INLINE int read_ledger(struct block *b, u64 hwid,
				     struct ledger_part *to)
{
	u64 before, fence = 0;

	for (u32 i = 0; i < 8; i++) {
		before = *(volatile u64 *)&b->ledger.sequence;
		__sync_fetch_and_add(&fence, 1);
		__builtin_memcpy(to, &b->ledger, sizeof(*to));
		__sync_fetch_and_add(&fence, 1);
		if (!(before & 1) &&
		    before == *(volatile u64 *)&b->ledger.sequence)
			return to->hwid == hwid;
	}
	return 0;
}

/* What went by the channel, in x, which is zero, and how much of it waits to
 * be sent. What spilled, S counts: sent when the device has it, acknowledged
 * likewise, but the ring has it still. */
static ALWAYS_INLINE u32 count_bypass(struct block *b, const struct seat *s,
				      struct stream *x)
{
	struct hardware_part *h = &b->hardware;
	struct channel_part *c = &b->channel;
	struct ledger_part l;
	u32 unsent;

	x->bytes_received = c->in;
	if (h->hwid == s->diverted) {
		x->segs_out = ahead(h->segs_sent, s->segs_out);
		x->segs_in = ahead(h->segs_received, s->segs_in);
	}
	if (!read_ledger(b, s->diverted, &l))
		return 0;
	unsent = in_ring(&l, h->snd_nxt);
	x->bytes_acked = l.taken - in_ring(&l, l.snd_una);
	x->bytes_sent = l.taken - unsent;
	return unsent + (u32)(c->out - l.taken);
}

#define EACH_OF_STREAM(DO)                                                 \
	DO(bytes_acked) DO(bytes_received) DO(bytes_sent) DO(bytes_retrans) \
	DO(segs_out) DO(segs_in) DO(data_segs_out) DO(data_segs_in)         \
	DO(delivered) DO(delivered_ce) DO(total_retrans) DO(rcv_ooopack)

/* S is about to be taken apart: x is what went by the channel. */
static ALWAYS_INLINE void keep_stream(struct seat *s, struct tcp_sock *tp,
				      const struct stream *x)
{
#define KEEP(f) s->kept.f = tp->f + s->offset.f + x->f;
	EACH_OF_STREAM(KEEP)
#undef KEEP
	s->kept.bytes_acked = most(s->kept.bytes_acked, s->acked);
	s->kept.bytes_sent = most(s->kept.bytes_sent, s->sent);
}

/* S has been rebuilt, and goes on where it was. */
static ALWAYS_INLINE void resume_stream(struct seat *s, struct tcp_sock *tp)
{
#define RESUME(f) s->offset.f = s->kept.f - tp->f;
	EACH_OF_STREAM(RESUME)
#undef RESUME
	s->diverted = 0;
	s->acked = s->sent = 0;
}

#endif
