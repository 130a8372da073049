// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The probe: reads the kernel's state of a batch of connections, without a
 * lock and without the socket's owner noticing. It is attached to nothing and
 * run by BPF_PROG_TEST_RUN; requests and answers are in a shared array.
 */
#include "lookup.h"
#include "state.h"

enum { BATCH = 256 };

struct batch {
	u32 count;
	u32 done; /* as count, when all is answered */
	struct flow_key keys[BATCH];
	struct kernel_state states[BATCH];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct batch);
} batches SEC(".maps");

struct context {
	struct __sk_buff *skb;
	struct batch *batch;
};

static long each(u32 i, struct context *c)
{
	struct kernel_state *k;
	struct sock_common *skc;
	struct tcp_sock *tp;

	if (i >= BATCH)
		return 1;
	k = &c->batch->states[i];
	__builtin_memset(k, 0, sizeof(*k));
	k->special = SPECIAL_MISSING;
	skc = lookup(c->skb, &c->batch->keys[i]);
	if (!skc)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (tp && tp->inet_conn.icsk_inet.sk.__sk_common.skc_state != TCP_LISTEN)
		read_state(tp, k);
	bpf_sk_release(skc);
	return 0;
}

SEC("tc")
int probe(struct __sk_buff *skb)
{
	u32 zero = 0;
	struct context c = {
		.skb = skb,
		.batch = bpf_map_lookup_elem(&batches, &zero),
	};

	if (!c.batch)
		return 0;
	bpf_loop(c.batch->count, each, &c, 0);
	c.batch->done = c.batch->count;
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
