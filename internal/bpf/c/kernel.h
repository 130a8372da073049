/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The parts of kernel structures that are read here. Only names count: the
 * loader finds each field's place in the running kernel's BTF (CO-RE). A name
 * after ___ is one of several forms that a structure had over time. */
#ifndef TOEHOLD_KERNEL_H
#define TOEHOLD_KERNEL_H

#include "helpers.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), \
			     apply_to = record)

struct inode {
	unsigned long i_ino;
};

struct socket {
	struct sock *sk;
};

struct socket_alloc {
	struct socket socket;
	struct inode vfs_inode;
};

struct file {
	struct inode *f_inode;
};

struct task_struct {
	int tgid;
	struct task_struct *group_leader;
	char comm[16];
};

struct in6_addr {
	union {
		u8 u6_addr8[16];
	} in6_u;
};

typedef struct {
	u64 counter;
} atomic64_t;

typedef struct {
	u32 val;
} kuid_t;

typedef struct {
	int counter;
} atomic_t;

struct list_head {
	struct list_head *next, *prev;
};

struct bpf_prog_aux {
	u32 id;
};

struct bpf_prog {
	struct bpf_prog_aux *aux;
};

struct sk_psock_progs {
	struct bpf_prog *msg_parser;
};

struct sk_psock {
	struct sk_psock_progs progs;
	struct list_head ingress_msg;
};

struct kernfs_node {
	u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct net_device {
	int ifindex;
};

struct dst_entry {
	struct net_device *dev;
};

struct netns_ipv4 {
	int sysctl_tcp_keepalive_time, sysctl_tcp_keepalive_intvl;
	u8 sysctl_tcp_keepalive_probes;
	int sysctl_tcp_wmem[3];
};

struct ns_common {
	u32 inum;
};

struct net {
	u64 net_cookie;
	struct ns_common ns;
	struct netns_ipv4 ipv4;
};

typedef struct {
	struct net *net;
} possible_net_t;

enum sock_flags {
	SOCK_KEEPOPEN = 3,
	SOCK_LINGER = 4,
};

struct sock_common {
	union {
		struct {
			u32 skc_daddr;
			u32 skc_rcv_saddr;
		};
	};
	union {
		struct {
			u16 skc_dport;
			u16 skc_num;
		};
	};
	u16 skc_family;
	volatile u8 skc_state;
	int skc_bound_dev_if;
	unsigned long skc_flags;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
};

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
	kuid_t sk_uid;
	u16 sk_protocol;
	void *sk_user_data;
	unsigned long sk_pacing_rate, sk_max_pacing_rate;
	u32 sk_priority, sk_mark;
	int sk_sndbuf, sk_rcvbuf, sk_wmem_queued, sk_rcvlowat;
	unsigned long sk_lingertime;
	u8 sk_shutdown;
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
	u8 sk_userlocks : 4;
	int sk_rx_dst_ifindex;
	struct dst_entry *sk_dst_cache;
	struct sock_cgroup_data sk_cgrp_data;
};

struct sock___ino { /* Linux 6.18 */
	unsigned long sk_ino;
};

struct ip_options_rcu;

struct ipv6_pinfo {
	s16 hop_limit;
	u8 tclass;
};

struct inet_sock {
	struct sock sk;
	s16 uc_ttl;
	struct ip_options_rcu *inet_opt;
	u8 tos;
};

struct inet_sock___v6 { /* with CONFIG_IPV6 */
	struct ipv6_pinfo *pinet6;
};

struct tcp_congestion_ops {
	u32 (*ssthresh)(struct sock *sk);
	void (*cong_avoid)(struct sock *sk, u32 ack, u32 acked);
	u32 (*undo_cwnd)(struct sock *sk);
	char name[16];
	void (*init)(struct sock *sk);
};

struct tcp_ulp_ops;

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const struct tcp_congestion_ops *icsk_ca_ops;
	const struct tcp_ulp_ops *icsk_ulp_ops;
	u8 icsk_ca_state : 5;
	u8 icsk_retransmits, icsk_backoff, icsk_probes_out;
	u16 icsk_ext_hdr_len;
	struct {
		u32 lrcvtime;
	} icsk_ack;
	u32 icsk_user_timeout;
	u64 icsk_ca_priv[13];
};

struct minmax_sample {
	u32 t, v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct tcp_options_received {
	int ts_recent_stamp;
	u32 ts_recent;
	u16 tstamp_ok : 1, wscale_ok : 1, sack_ok : 3, snd_wscale : 4,
		rcv_wscale : 4;
};

struct tcp_md5sig_info;
struct tcp_ao_info;

struct tcp_rack {
	u8 reo_wnd_steps;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u32 tsoffset, snd_wnd, mss_cache, snd_cwnd, notsent_lowat;
	u8 repair : 1, nonagle : 4;
	u32 copied_seq;
	u16 urg_data;
	u32 snd_ssthresh;
	struct minmax rtt_min;
	u32 write_seq, mdev_us, rttvar_us;
	u8 ecn_flags;
	u32 rcv_nxt, snd_nxt, snd_una, srtt_us, snd_up, rcv_wnd;
	struct tcp_options_received rx_opt;
	u64 bytes_received;
	u32 rcv_wup;
	u64 bytes_acked;
	u32 total_retrans, snd_cwnd_clamp;
	u32 rcv_ssthresh, reordering, reord_seen;
	u32 lost_out, sacked_out, retrans_out, delivered, delivered_ce;
	u32 segs_out, segs_in, data_segs_out, data_segs_in, rcv_ooopack;
	u64 bytes_sent, bytes_retrans;
	u32 lsndtime, rate_delivered, rate_interval_us;
	u32 rcv_tstamp, keepalive_time, keepalive_intvl;
	u8 keepalive_probes;
	struct tcp_rack rack;
};

/* Private state of congestion controls, in icsk_ca_priv. */

struct bictcp {
	u32 last_max_cwnd, bic_origin_point, bic_K, delay_min, epoch_start;
	u32 tcp_cwnd;
	u8 found;
};

struct dctcp {
	u32 dctcp_alpha, ce_state, loss_cwnd;
};

struct bbr {
	u32 min_rtt_us, min_rtt_stamp;
	struct minmax bw;
	u64 cycle_mstamp;
	u32 mode : 3, lt_use_bw : 1;
	u32 lt_bw;
	u32 pacing_gain : 10, cwnd_gain : 10, full_bw_reached : 1,
		full_bw_cnt : 2, cycle_idx : 3, has_seen_rtt : 1;
	u32 prior_cwnd, full_bw;
	u16 extra_acked[2];
};

struct tcp_sock___usec { /* Linux 6.7 */
	u8 tcp_usec_ts : 1;
};

struct tcp_sock___mptcp { /* with CONFIG_MPTCP */
	u8 is_mptcp;
};

struct tcp_sock___md5 { /* with CONFIG_TCP_MD5SIG */
	struct tcp_md5sig_info *md5sig_info;
};

struct tcp_sock___ao { /* Linux 6.7, with CONFIG_TCP_AO */
	struct tcp_ao_info *ao_info;
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};

#pragma clang attribute pop

/* As include/uapi/linux/bpf.h and clang number them. */
enum {
	FIELD_BYTE_OFFSET = 0,
	FIELD_BYTE_SIZE = 1,
	FIELD_EXISTS = 2,
	FIELD_LSHIFT = 4,
	FIELD_RSHIFT = 5,
};

#define HAS(s, f) __builtin_preserve_field_info((s)->f, FIELD_EXISTS)

/* A field of a structure that the verifier does not follow. */
#define READ(s, f)                                                     \
	({                                                             \
		typeof((s)->f) v_ = 0;                                 \
		bpf_probe_read_kernel(                                 \
			&v_, sizeof(v_),                               \
			__builtin_preserve_access_index(&(s)->f));     \
		v_;                                                    \
	})

/* A bit field, little-endian. */
#define BITS(s, f)                                                        \
	({                                                                \
		u64 v_ = 0;                                               \
		bpf_probe_read_kernel(                                    \
			&v_,                                              \
			__builtin_preserve_field_info((s)->f,             \
						      FIELD_BYTE_SIZE),   \
			(const u8 *)(s) + __builtin_preserve_field_info(  \
						  (s)->f,                 \
						  FIELD_BYTE_OFFSET));    \
		v_ <<= __builtin_preserve_field_info((s)->f, FIELD_LSHIFT); \
		v_ >>= __builtin_preserve_field_info((s)->f, FIELD_RSHIFT); \
		v_;                                                       \
	})

/* A bit field of a structure that the verifier lets be written. */
#define SET_BITS(s, f, v)                                                  \
	({                                                                 \
		u32 *w_ = (void *)(s) + __builtin_preserve_field_info(     \
						(s)->f, FIELD_BYTE_OFFSET); \
		u32 r_ = __builtin_preserve_field_info((s)->f,             \
						       FIELD_RSHIFT);      \
		u32 at_ = r_ - __builtin_preserve_field_info((s)->f,       \
							     FIELD_LSHIFT); \
		u64 mask_ = ~0ull >> r_ << at_;                            \
		*w_ = (*w_ & ~mask_) | ((u64)(v) << at_ & mask_);          \
	})

#define IN_WORD(s, f) \
	(__builtin_preserve_field_info((s)->f, FIELD_BYTE_SIZE) == sizeof(u32))

/* What a sockmap keeps with a socket, 0: it is in none. The pointer has flags
 * in its lowest bits, of which one says that it is of that kind
 * (SK_USER_DATA_PSOCK of include/net/sock.h). */
static ALWAYS_INLINE struct sk_psock *psock_of(struct sock *sk)
{
	u64 data = (u64)READ(sk, sk_user_data);

	return data & 4 ? (void *)(data & ~7ull) : 0;
}

#endif
