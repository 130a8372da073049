/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct socket_state from a socket: what its program has set. */
#ifndef TOEHOLD_SOCKET_H
#define TOEHOLD_SOCKET_H

#include "congestion.h"
#include "key.h"

enum { /* include/linux/tcp.h, include/net/tcp.h, include/net/sock.h */
	TCP_NAGLE_OFF = 1,
	TCP_NAGLE_CORK = 2,
	SOCK_SNDBUF_LOCK = 1,
	SOCK_RCVBUF_LOCK = 2,
};

/* A hop limit of -1, as of a new socket, stands for the route's. */
static ALWAYS_INLINE void read_header_fields(struct inet_sock *inet,
					     struct socket_state *s)
{
	struct sock_common *skc = &inet->sk.__sk_common;
	struct inet_sock___v6 *v6 = (void *)inet;
	struct ipv6_pinfo *six;
	s16 hops = 0;

	if (skc->skc_family == AF_INET || is_mapped(&skc->skc_v6_daddr)) {
		hops = inet->uc_ttl;
		s->tos = inet->tos;
	} else if (HAS(v6, pinet6)) {
		six = READ(v6, pinet6);
		hops = READ(six, hop_limit);
		s->tos = READ(six, tclass);
	}
	s->ttl = hops > 0 ? hops : 0;
}

static ALWAYS_INLINE u8 socket_flags(struct tcp_sock *tp)
{
	struct sock *sk = (struct sock *)tp;
	u8 nagle = BITS(tp, nonagle), locks = BITS(sk, sk_userlocks);
	u8 flags = 0;

	if (nagle & TCP_NAGLE_OFF)
		flags |= SOCKET_NODELAY;
	if (nagle & TCP_NAGLE_CORK)
		flags |= SOCKET_CORK;
	if (sk->__sk_common.skc_flags >> SOCK_KEEPOPEN & 1)
		flags |= SOCKET_KEEPALIVE;
	if (sk->__sk_common.skc_flags >> SOCK_LINGER & 1)
		flags |= SOCKET_LINGER;
	if (locks & SOCK_SNDBUF_LOCK)
		flags |= SOCKET_SNDBUF;
	if (locks & SOCK_RCVBUF_LOCK)
		flags |= SOCKET_RCVBUF;
	return flags;
}

/* Fills s, which is zero. */
static ALWAYS_INLINE void read_socket(struct tcp_sock *tp,
				      struct socket_state *s)
{
	struct sock *sk = (struct sock *)tp;
	struct net *net = READ(sk, __sk_common.skc_net.net);

	s->sndbuf = s->sndbuf_most = READ(sk, sk_sndbuf);
	s->rcvbuf = READ(sk, sk_rcvbuf);
	s->send_memory = READ(sk, sk_wmem_queued);
	s->rcvlowat = READ(sk, sk_rcvlowat);
	s->notsent_lowat = tp->notsent_lowat;
	s->priority = READ(sk, sk_priority);
	s->mark = READ(sk, sk_mark);
	s->linger = ms_of(READ(sk, sk_lingertime));
	s->shutdown = READ(sk, sk_shutdown);
	s->flags = socket_flags(tp);
	if (!(s->flags & SOCKET_SNDBUF))
		s->sndbuf_most = READ(net, ipv4.sysctl_tcp_wmem[2]);
	read_header_fields(&tp->inet_conn.icsk_inet, s);
}

#endif
