/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* internal/abi/policy.go in C, which says what it means. */
#ifndef TOEHOLD_POLICY_H
#define TOEHOLD_POLICY_H

#include "helpers.h"

enum {
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
	POLICY_FIELDS,
};

enum {
	VERDICT_NEVER = 1,
	VERDICT_LATER = 2,
	VERDICT_NOW = 3,
};

#define TERM_NOT 1
#define RULE_NONE 0xffff
#define MAX_POLICY_TERMS 512

struct policy_term {
	u8 low[16], high[16];
	u8 field, flags, verdict, zero;
	u16 rule;
	u8 zeros[2];
};

struct policy_table {
	u64 serial;
	u32 count;
	u8 zeros[4];
	struct policy_term terms[MAX_POLICY_TERMS];
};

struct policy_facts {
	u8 fact[POLICY_FIELDS][16];
	u32 known;
	u8 zeros[4];
};

#endif
