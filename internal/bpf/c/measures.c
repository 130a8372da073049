// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the kernel has measured of each connection, for those who decide. Ten
 * thousand are read every so often, so that there is nothing here that is not
 * decided by, and fields are loaded straight where the verifier follows.
 */
#include "key.h"
#include "state.h"

struct measure {
	struct flow_key key;
	u64 cookie, netns, cgroup, inode;
	u64 bytes_acked, bytes_received, bytes_sent, bytes_resent;
	u64 delivery_rate, pacing_rate;
	u8 congestion_control[16];
	u32 segs_out, segs_in, data_segs_out, data_segs_in;
	u32 retransmits, out_of_order, reordering, reordering_seen;
	u32 srtt, min_rtt, cwnd, ssthresh, mss;
	u32 since_sent, since_received, since_acked;
	u32 queued, unread;
	u32 mark, priority, uid, bound_if, ifindex;
	u8 state, ca_state, tos, zero[9];
};

const struct measure *described; /* the object says what it looks like */

static ALWAYS_INLINE void read_counts(struct tcp_sock *tp, struct measure *m)
{
	m->bytes_acked = tp->bytes_acked;
	m->bytes_received = tp->bytes_received;
	m->bytes_sent = tp->bytes_sent;
	m->bytes_resent = tp->bytes_retrans;
	m->segs_out = tp->segs_out;
	m->segs_in = tp->segs_in;
	m->data_segs_out = tp->data_segs_out;
	m->data_segs_in = tp->data_segs_in;
	m->retransmits = tp->total_retrans;
	m->out_of_order = tp->rcv_ooopack;
	m->queued = tp->write_seq - tp->snd_una;
	m->unread = tp->rcv_nxt - tp->copied_seq;
}

/* tcp_compute_delivery_rate and tcp_get_info. */
static ALWAYS_INLINE void read_gauges(struct tcp_sock *tp, struct measure *m)
{
	u32 now = bpf_jiffies64(), min_rtt = tp->rtt_min.s[0].v;
	u64 interval = tp->rate_interval_us;

	m->srtt = tp->srtt_us >> 3;
	m->min_rtt = min_rtt == (u32)-1 ? 0 : min_rtt;
	m->cwnd = tp->snd_cwnd;
	m->ssthresh = tp->snd_ssthresh;
	m->mss = tp->mss_cache;
	m->reordering = tp->reordering;
	m->reordering_seen = tp->reord_seen;
	if (interval)
		m->delivery_rate = (u64)tp->rate_delivered * tp->mss_cache *
				   1000000 / interval;
	m->pacing_rate = tp->inet_conn.icsk_inet.sk.sk_pacing_rate;
	m->since_sent = ms_of(now - tp->lsndtime);
	m->since_received = ms_of(now - tp->inet_conn.icsk_ack.lrcvtime);
	m->since_acked = ms_of(now - tp->rcv_tstamp);
	m->ca_state = BITS(&tp->inet_conn, icsk_ca_state);
}

/* IPv6 sockets have a traffic class of their own; IPv4 by an IPv6 socket has
 * the type of service. */
static ALWAYS_INLINE u8 tos_of(struct inet_sock *inet, u8 family)
{
	struct inet_sock___v6 *v6 = (void *)inet;

	if (family == 6 && HAS(v6, pinet6))
		return v6->pinet6->tclass;
	return inet->tos;
}

/* Where its packets leave, as the last of them did; where none has been sent
 * yet, where the last one came in. */
static ALWAYS_INLINE u32 interface_of(struct sock *sk)
{
	u32 out = sk->sk_dst_cache->dev->ifindex;

	return out ? out : sk->sk_rx_dst_ifindex;
}

static ALWAYS_INLINE void read_nature(struct tcp_sock *tp, struct measure *m)
{
	struct sock *sk = (struct sock *)tp;
	const struct tcp_congestion_ops *cc = tp->inet_conn.icsk_ca_ops;

	m->cookie = bpf_get_socket_cookie(tp);
	m->netns = sk->__sk_common.skc_net.net->net_cookie;
	m->cgroup = sk->sk_cgrp_data.cgroup->kn->id;
	m->inode = inode_of(sk);
	m->mark = sk->sk_mark;
	m->priority = sk->sk_priority;
	m->uid = sk->sk_uid.val;
	m->bound_if = sk->__sk_common.skc_bound_dev_if;
	m->ifindex = interface_of(sk);
	m->tos = tos_of(&tp->inet_conn.icsk_inet, m->key.family);
	if (cc)
		bpf_probe_read_kernel(m->congestion_control,
				      sizeof(m->congestion_control),
				      __builtin_preserve_access_index(&cc->name));
}

SEC("iter/tcp")
int measures(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct measure m = {};
	struct tcp_sock *tp;

	if (!skc || skc->skc_state == TCP_LISTEN || skc->skc_state == TCP_CLOSE)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp)
		return 0; /* TIME-WAIT, or not yet a connection */
	key_of(skc, &m.key);
	m.state = skc->skc_state;
	read_counts(tp, &m);
	read_gauges(tp, &m);
	read_nature(tp, &m);
	bpf_seq_write(ctx->meta->seq, &m, sizeof(m));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
