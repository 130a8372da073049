/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a policy comes to for a connection that has just been established: the
 * twin of policy.Judge. */
#ifndef TOEHOLD_JUDGE_H
#define TOEHOLD_JUDGE_H

#include "key.h"

enum { /* abi.PolicyField */
	FIELD_ALWAYS,
	FIELD_LOCAL_ADDR,
	FIELD_REMOTE_ADDR,
	FIELD_LOCAL_PORT,
	FIELD_REMOTE_PORT,
	FIELD_INTERFACE,
	FIELD_UID,
	FIELD_MARK,
	FIELD_CGROUP,
	FIELD_NETNS,
	FIELD_CONGESTION,
	FIELD_COMM,
	FIELDS,
};

enum { /* abi.Verdict */
	VERDICT_NEVER = 1,
	VERDICT_LATER,
	VERDICT_NOW,
};

enum {
	TERM_NOT = 1,
	MAX_TERMS = 512,
	RULE_NONE = 0xffff,
};

struct fact { /* 16 octets, the first one most significant */
	u64 high, low;
};

struct policy_term {
	struct fact low, high;
	u8 field, flags, verdict, zero;
	u16 rule;
	u8 zeros[2];
};

struct policy_table {
	u64 serial;
	u32 count;
	u8 zero[4];
	struct policy_term terms[MAX_TERMS];
};

struct policy_facts {
	struct fact fact[FIELDS];
	u32 known;
	u8 zero[4];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct policy_table);
} policies SEC(".maps");

#define be64(x) __builtin_bswap64(x)
#define be32(x) __builtin_bswap32(x)

static ALWAYS_INLINE void set_number(struct policy_facts *f, u32 field, u64 n)
{
	f->fact[field].low = be64(n);
	f->known |= 1 << field;
}

static ALWAYS_INLINE void set_address4(struct policy_facts *f, u32 field,
				       u32 address)
{
	f->fact[field].low = be64(0xffff00000000ULL | be32(address));
	f->known |= 1 << field;
}

static ALWAYS_INLINE void set_octets(struct policy_facts *f, u32 field,
				     const void *from)
{
	if (bpf_probe_read_kernel(&f->fact[field], 16, from) == 0)
		f->known |= 1 << field;
}

static ALWAYS_INLINE void read_addresses(struct sock_common *skc,
					 struct policy_facts *f)
{
	if (skc->skc_family == AF_INET || is_mapped(&skc->skc_v6_daddr)) {
		set_address4(f, FIELD_LOCAL_ADDR, skc->skc_rcv_saddr);
		set_address4(f, FIELD_REMOTE_ADDR, skc->skc_daddr);
		return;
	}
	set_octets(f, FIELD_LOCAL_ADDR, &skc->skc_v6_rcv_saddr);
	set_octets(f, FIELD_REMOTE_ADDR, &skc->skc_v6_daddr);
}

/* The process is not known: a connection is established when a segment comes
 * in, whoever runs then. */
static ALWAYS_INLINE void read_facts(struct tcp_sock *tp,
				     struct policy_facts *f)
{
	struct sock *sk = (struct sock *)tp;
	const struct tcp_congestion_ops *cc = tp->inet_conn.icsk_ca_ops;
	struct dst_entry *dst = sk->sk_dst_cache;

	f->known = 1 << FIELD_ALWAYS;
	read_addresses(&sk->__sk_common, f);
	set_number(f, FIELD_LOCAL_PORT, sk->__sk_common.skc_num);
	set_number(f, FIELD_REMOTE_PORT, ntohs(sk->__sk_common.skc_dport));
	if (dst)
		set_number(f, FIELD_INTERFACE, dst->dev->ifindex);
	set_number(f, FIELD_UID, sk->sk_uid.val);
	set_number(f, FIELD_MARK, sk->sk_mark);
	set_number(f, FIELD_CGROUP, sk->sk_cgrp_data.cgroup->kn->id);
	set_number(f, FIELD_NETNS, sk->__sk_common.skc_net.net->ns.inum);
	if (cc)
		set_octets(f, FIELD_CONGESTION,
			   __builtin_preserve_access_index(&cc->name));
}

static ALWAYS_INLINE int at_most(const struct fact *a, const struct fact *b)
{
	u64 x = be64(a->high), y = be64(b->high);

	return x < y || (x == y && be64(a->low) <= be64(b->low));
}

struct judging {
	struct policy_table *table;
	struct policy_facts *facts;
	u32 failed, unsure;
	u32 verdict, rule;
};

static long judge_term(u32 i, struct judging *j)
{
	struct policy_term *t;
	u32 field;

	if (i >= MAX_TERMS)
		return 1;
	t = &j->table->terms[i];
	field = t->field;
	if (field >= FIELDS || !(j->facts->known & (1 << field))) {
		j->unsure = 1;
	} else {
		struct fact *f = &j->facts->fact[field];
		int inside = at_most(&t->low, f) && at_most(f, &t->high);

		if (inside != !(t->flags & TERM_NOT))
			j->failed = 1;
	}
	if (!t->verdict)
		return 0;
	if (!j->failed) {
		if (!j->unsure) {
			j->verdict = t->verdict;
			j->rule = t->rule;
		}
		return 1;
	}
	j->failed = 0;
	j->unsure = 0;
	return 0;
}

/* j has table and facts. */
static ALWAYS_INLINE void judge(struct judging *j)
{
	u32 count = j->table->count;

	j->verdict = VERDICT_LATER;
	j->rule = RULE_NONE;
	bpf_loop(count < MAX_TERMS ? count : MAX_TERMS, judge_term, j, 0);
}

#endif
