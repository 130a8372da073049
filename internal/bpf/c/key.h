/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct flow_key from a socket. */
#ifndef TOEHOLD_KEY_H
#define TOEHOLD_KEY_H

#include "kernel.h"
#include "toehold.h"

enum {
	AF_INET = 2,
	AF_INET6 = 10,
};

static ALWAYS_INLINE int is_mapped(const struct in6_addr *a)
{
	u32 w[4];

	bpf_probe_read_kernel(w, sizeof(w), a);
	return w[0] == 0 && w[1] == 0 && w[2] == 0xffff0000;
}

/* Fills k, which is zero. */
static ALWAYS_INLINE void key_of(struct sock_common *skc, struct flow_key *k)
{
	k->local_port = htons(skc->skc_num);
	k->remote_port = skc->skc_dport;
	if (skc->skc_family == AF_INET || is_mapped(&skc->skc_v6_daddr)) {
		u32 local = skc->skc_rcv_saddr, remote = skc->skc_daddr;

		k->family = 4;
		__builtin_memcpy(k->local, &local, 4);
		__builtin_memcpy(k->remote, &remote, 4);
		return;
	}
	k->family = 6;
	bpf_probe_read_kernel(k->local, 16, &skc->skc_v6_rcv_saddr);
	bpf_probe_read_kernel(k->remote, 16, &skc->skc_v6_daddr);
}

#endif
