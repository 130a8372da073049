/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The socket of a flow. */
#ifndef TOEHOLD_LOOKUP_H
#define TOEHOLD_LOOKUP_H

#include "toehold.h"

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

/* A tuple without connection finds a listening socket, if there is one; a
 * connection in TIME-WAIT or not yet accepted is no full socket. */
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

#endif
