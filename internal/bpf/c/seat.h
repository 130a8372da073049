/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept with a socket, for as long as it lives: where its connection
 * is, what its program wants, and what devices have counted of it. */
#ifndef TOEHOLD_SEAT_H
#define TOEHOLD_SEAT_H

#include "toehold.h"

enum { /* seat.wish, as the program sets it */
	WISH_AUTO,
	WISH_NEVER,
	WISH_NOW,
	WISHES,
};

enum { /* seat.place */
	SEAT_KERNEL,
	SEAT_MOVING,
	SEAT_DEVICE,
};

/* What a device counts of a connection and S does not. */
struct counts {
	u64 retransmits, bytes_resent, out_of_order;
};

/* What TCP_INFO counts, as S does. */
struct stream {
	u64 bytes_acked, bytes_received, bytes_sent, bytes_retrans;
	u32 segs_out, segs_in, data_segs_out, data_segs_in;
	u32 delivered, delivered_ce, total_retrans, rcv_ooopack;
};

struct seat {
	struct bpf_spin_lock lock;
	u32 table;	    /* of the device: index in tables */
	u64 hwid;	    /* 0: in the kernel */
	u32 place, wish;
	u32 asked;	    /* the driver was woken and has not looked yet */
	u16 verdict, rule;  /* of the policy, when it was established; 0: none */
	u8 reason[40];	    /* of the last move or refusal */
	u64 counted;	    /* hardware id that last is of */
	struct counts last; /* of the last time on a device */
	struct counts before; /* of those before it */
	u64 diverted;	      /* hardware id that S is bypassed with, 0: not */
	u32 segs_out, segs_in; /* that the device had counted then */
	u64 acked, sent;      /* the most of these octets told since then */
	struct stream kept;   /* what was so when S was taken apart */
	struct stream offset; /* of what is so from S's own counts */
};

/* A socket that is accepted inherits what the listening one was told. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_SK_STORAGE);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	MAP_TYPE(key, int);
	MAP_TYPE(value, struct seat);
} seats SEC(".maps");

static ALWAYS_INLINE u64 most(u64 a, u64 b)
{
	return a > b ? a : b;
}

/* Takes in what the device with this id has counted; the lock is held. It may
 * be told twice, and not in order. */
static ALWAYS_INLINE void take_counts(struct seat *s, u64 hwid,
				      const struct counts *c)
{
	if (s->counted != hwid) {
		s->before.retransmits += s->last.retransmits;
		s->before.bytes_resent += s->last.bytes_resent;
		s->before.out_of_order += s->last.out_of_order;
		s->last.retransmits = 0;
		s->last.bytes_resent = 0;
		s->last.out_of_order = 0;
		s->counted = hwid;
	}
	s->last.retransmits = most(s->last.retransmits, c->retransmits);
	s->last.bytes_resent = most(s->last.bytes_resent, c->bytes_resent);
	s->last.out_of_order = most(s->last.out_of_order, c->out_of_order);
}

#endif
