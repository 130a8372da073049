// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The probe: reads the kernel's state of a batch of connections, without a
 * lock and without the socket's owner noticing. It is attached to nothing and
 * run by BPF_PROG_TEST_RUN; requests and answers are in a shared array.
 */
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

/* The tuple as the peer's packets have it; its size tells the family. */
static ALWAYS_INLINE u32 tuple_of(const struct flow_key *k,
				  struct bpf_sock_tuple *t)
{
	if (k->family == 4) {
		__builtin_memcpy(&t->ipv4.saddr, k->remote, 4);
		__builtin_memcpy(&t->ipv4.daddr, k->local, 4);
		t->ipv4.sport = k->remote_port;
		t->ipv4.dport = k->local_port;
		return sizeof(t->ipv4);
	}
	__builtin_memcpy(t->ipv6.saddr, k->remote, 16);
	__builtin_memcpy(t->ipv6.daddr, k->local, 16);
	t->ipv6.sport = k->remote_port;
	t->ipv6.dport = k->local_port;
	return sizeof(t->ipv6);
}

static ALWAYS_INLINE struct sock_common *lookup(struct __sk_buff *skb,
						const struct flow_key *k)
{
	struct bpf_sock_tuple t = {};

	/* The verifier wants to see a constant size. */
	if (tuple_of(k, &t) == sizeof(t.ipv4))
		return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4),
					  BPF_F_CURRENT_NETNS, 0);
	return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS,
				  0);
}

struct context {
	struct __sk_buff *skb;
	struct batch *batch;
};

/* A tuple without connection finds a listening socket, if there is one; a
 * connection in TIME-WAIT or not yet accepted is no full socket. */
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
