/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct kernel_state from a socket. */
#ifndef TOEHOLD_STATE_H
#define TOEHOLD_STATE_H

#include "congestion.h"
#include "kernel.h"
#include "socket.h"
#include "toehold.h"

enum { /* include/net/tcp_states.h */
	TCP_ESTABLISHED = 1,
	TCP_FIN_WAIT1 = 4,
	TCP_FIN_WAIT2 = 5,
	TCP_TIME_WAIT = 6,
	TCP_CLOSE = 7,
	TCP_CLOSE_WAIT = 8,
	TCP_LAST_ACK = 9,
	TCP_LISTEN = 10,
	TCP_CLOSING = 11,
	TCP_NEW_SYN_RECV = 12,
};

enum {
	TCP_ECN_OK = 1 << 0,
	TCP_ECN_QUEUE_CWR = 1 << 1,
	TCP_ECN_DEMAND_CWR = 1 << 2,
	TCP_ECN_MODE_ACCECN = 1 << 4, /* Linux 6.18 */
	TCP_TIMEOUT_INIT = 1000000, /* us: no round trip measured yet */
};

static ALWAYS_INLINE u64 inode_of(struct sock *sk)
{
	struct sock___ino *with_ino = (void *)sk;
	struct socket_alloc *s;

	if (HAS(with_ino, sk_ino))
		return READ(with_ino, sk_ino);
	s = (void *)READ(sk, sk_socket); /* socket_alloc begins with it */
	return s ? READ(s, vfs_inode.i_ino) : 0;
}

static ALWAYS_INLINE void read_sequence(struct tcp_sock *tp,
					struct kernel_state *k)
{
	k->snd_una = tp->snd_una;
	k->snd_nxt = tp->snd_nxt;
	k->write_seq = tp->write_seq;
	k->copied_seq = tp->copied_seq;
	k->rcv_wup = tp->rcv_wup;
	k->rcv_wnd = tp->rcv_wnd;
	k->rcv_nxt = tp->rcv_nxt;
	k->snd_wnd = tp->snd_wnd;
	k->bytes_sent = tp->bytes_acked;
	k->bytes_received = tp->bytes_received;
	k->retransmits = tp->total_retrans;
}

/* Seconds since a second of the monotonic clock (ktime_get_seconds). */
static ALWAYS_INLINE u32 age_of(u32 second)
{
	u32 now = bpf_ktime_get_ns() / 1000000000;

	return second && second <= now ? now - second : 0;
}

/* The scaled integers of the kernel (srtt_us is eightfold, mdev_us and
 * rttvar_us are fourfold) in microseconds, as tcp_get_info gives them. The
 * RTO is __tcp_set_rto's sum, since icsk_rto is in jiffies and backed off. */
static ALWAYS_INLINE void read_path(struct tcp_sock *tp, struct kernel_state *k)
{
	u32 srtt = tp->srtt_us, min_rtt = tp->rtt_min.s[0].v;

	k->srtt = srtt >> 3;
	k->rttvar = tp->mdev_us >> 2;
	k->min_rtt = min_rtt == (u32)-1 ? 0 : min_rtt;
	k->rto = srtt ? (srtt >> 3) + tp->rttvar_us : TCP_TIMEOUT_INIT;
	k->backoff = tp->inet_conn.icsk_backoff;
	k->timeouts = tp->inet_conn.icsk_retransmits;
	k->probes_out = tp->inet_conn.icsk_probes_out;
	k->snd_cwnd = tp->snd_cwnd;
	k->snd_ssthresh = tp->snd_ssthresh;
	k->mss = tp->mss_cache;
	k->ts_offset = tp->tsoffset;
	k->ts_recent = tp->rx_opt.ts_recent;
	k->ts_recent_age = age_of(tp->rx_opt.ts_recent_stamp);
	k->pacing_rate = tp->inet_conn.icsk_inet.sk.sk_pacing_rate;
	k->max_pacing_rate = tp->inet_conn.icsk_inet.sk.sk_max_pacing_rate;
}

static ALWAYS_INLINE void read_recovery(struct tcp_sock *tp,
					struct kernel_state *k)
{
	struct inet_connection_sock *icsk = &tp->inet_conn;

	k->ca_state = BITS(icsk, icsk_ca_state);
	k->sacked = tp->sacked_out;
	k->lost = tp->lost_out;
	k->resent = tp->retrans_out;
	k->delivered = tp->delivered;
	k->delivered_ce = tp->delivered_ce;
	k->rcv_ssthresh = tp->rcv_ssthresh;
	k->reordering = tp->reordering;
	k->reordering_seen = tp->reord_seen;
	k->reo_wnd_steps = tp->rack.reo_wnd_steps;
}

/* Where the socket has no values of its own (0), those of its namespace
 * hold. */
static ALWAYS_INLINE void read_keepalive(struct tcp_sock *tp,
					 struct kernel_state *k)
{
	struct sock *sk = (struct sock *)tp;
	struct net *net = READ(sk, __sk_common.skc_net.net);
	u32 now = bpf_jiffies64();
	u32 data = now - tp->inet_conn.icsk_ack.lrcvtime;
	u32 ack = now - tp->rcv_tstamp;
	u32 time = tp->keepalive_time, interval = tp->keepalive_intvl;

	k->keepalive = sk->__sk_common.skc_flags >> SOCK_KEEPOPEN & 1;
	k->keep_time =
		ms_of(time ? time : READ(net, ipv4.sysctl_tcp_keepalive_time));
	k->keep_interval = ms_of(
		interval ? interval :
			   READ(net, ipv4.sysctl_tcp_keepalive_intvl));
	k->keep_probes = tp->keepalive_probes;
	if (!k->keep_probes)
		k->keep_probes = READ(net, ipv4.sysctl_tcp_keepalive_probes);
	k->idle = ms_of(data < ack ? data : ack);
	k->user_timeout = tp->inet_conn.icsk_user_timeout;
}

static ALWAYS_INLINE void read_ecn(u8 ecn, struct kernel_state *k)
{
	if (!(ecn & TCP_ECN_OK))
		return;
	k->flags |= FLAG_ECN;
	if (ecn & TCP_ECN_DEMAND_CWR)
		k->flags |= FLAG_ECHO_CE;
	if (ecn & TCP_ECN_QUEUE_CWR)
		k->flags |= FLAG_CWR_DUE;
}

static ALWAYS_INLINE void read_options(struct tcp_sock *tp,
				       struct kernel_state *k)
{
	struct tcp_options_received *o = &tp->rx_opt;

	k->snd_wscale = BITS(o, snd_wscale);
	k->rcv_wscale = BITS(o, rcv_wscale);
	if (BITS(o, tstamp_ok))
		k->flags |= FLAG_TIMESTAMPS;
	if (BITS(o, sack_ok))
		k->flags |= FLAG_SACK;
	if (BITS(o, wscale_ok))
		k->flags |= FLAG_WINDOW_SCALE;
	read_ecn(tp->ecn_flags, k);
}

static ALWAYS_INLINE void read_fins(struct kernel_state *k)
{
	switch (k->state) {
	case TCP_FIN_WAIT1: /* the FIN may stand behind unsent data */
		if (k->snd_nxt == k->write_seq)
			k->flags |= FLAG_LOCAL_FIN;
		break;
	case TCP_FIN_WAIT2:
		k->flags |= FLAG_LOCAL_FIN;
		break;
	case TCP_CLOSE_WAIT:
		k->flags |= FLAG_PEER_FIN;
		break;
	case TCP_LAST_ACK:
	case TCP_CLOSING:
		k->flags |= FLAG_PEER_FIN | FLAG_LOCAL_FIN;
		break;
	}
}

/* Urgent data that came and was not read past, or that S has sent and the
 * peer not acknowledged. snd_up is read before snd_una, which it follows
 * (tcp_clean_rtx_queue), so that an acknowledgement in between does not look
 * like urgent data. */
static ALWAYS_INLINE int urgent(struct tcp_sock *tp)
{
	u32 up = *(volatile u32 *)&tp->snd_up;
	u32 una = *(volatile u32 *)&tp->snd_una;

	return tp->urg_data || (s32)(up - una) > 0;
}

/* The verdict of the channels (channel.c) that the reader's owner has, by the
 * number that the kernel gave it; 0: there is none. */
volatile u32 own_verdict;

/* Whether a socket is in the owner's own sockmap. */
static ALWAYS_INLINE int is_tied(struct sock *sk)
{
	struct sk_psock *p = psock_of(sk);
	struct bpf_prog *verdict;
	struct bpf_prog_aux *aux;

	if (!own_verdict || !p)
		return 0;
	verdict = READ(p, progs.msg_parser);
	aux = verdict ? READ(verdict, aux) : 0;
	return aux && READ(aux, id) == own_verdict;
}

/* Timestamps in microseconds (a route feature of Linux 6.7) have no bit of
 * their own; as something above plain TCP they share that of a ULP. */
static ALWAYS_INLINE u32 read_special(struct tcp_sock *tp)
{
	struct inet_connection_sock *icsk = &tp->inet_conn;
	struct tcp_sock___mptcp *mptcp = (void *)tp;
	struct tcp_sock___usec *usec = (void *)tp;
	struct tcp_sock___md5 *md5 = (void *)tp;
	struct tcp_sock___ao *ao = (void *)tp;
	u32 special = 0;

	if (HAS(md5, md5sig_info) && READ(md5, md5sig_info))
		special |= SPECIAL_MD5;
	if (HAS(ao, ao_info) && READ(ao, ao_info))
		special |= SPECIAL_AO;
	if (HAS(mptcp, is_mptcp) && READ(mptcp, is_mptcp))
		special |= SPECIAL_MPTCP;
	if (HAS(usec, tcp_usec_ts) && BITS(usec, tcp_usec_ts))
		special |= SPECIAL_ULP;
	if (READ(icsk, icsk_ulp_ops))
		special |= SPECIAL_ULP;
	if (urgent(tp))
		special |= SPECIAL_URGENT;
	if (READ(icsk, icsk_inet.inet_opt) || icsk->icsk_ext_hdr_len)
		special |= SPECIAL_IP_OPTIONS;
	if (BITS(tp, repair))
		special |= SPECIAL_REPAIR;
	/* A psock, or another part of the kernel that owns the socket. */
	if (READ(icsk, icsk_inet.sk.sk_user_data) && !is_tied(&icsk->icsk_inet.sk))
		special |= SPECIAL_SOCKMAP;
	if (tp->ecn_flags & TCP_ECN_MODE_ACCECN)
		special |= SPECIAL_ACCECN;
	return special;
}

/* Fills k, which is zero. */
static ALWAYS_INLINE void read_state(struct tcp_sock *tp,
				     struct kernel_state *k)
{
	struct sock *sk = (struct sock *)tp;
	const struct tcp_congestion_ops *cc;

	k->state = sk->__sk_common.skc_state;
	k->cookie = sk->__sk_common.skc_cookie.counter;
	k->bound_if = sk->__sk_common.skc_bound_dev_if;
	k->uid = sk->sk_uid.val;
	k->inode = inode_of(sk);
	cc = READ(&tp->inet_conn, icsk_ca_ops);
	if (cc)
		bpf_probe_read_kernel(k->congestion_control,
				      sizeof(k->congestion_control),
				      __builtin_preserve_access_index(&cc->name));
	read_sequence(tp, k);
	read_path(tp, k);
	read_recovery(tp, k);
	read_keepalive(tp, k);
	read_congestion(tp, k);
	read_options(tp, k);
	read_fins(k);
	read_socket(tp, &k->socket);
	k->special = read_special(tp);
}

#endif
