/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* internal/abi and flow.Key in C; a test compares the layouts. */
#ifndef TOEHOLD_H
#define TOEHOLD_H

#include "helpers.h"

#define MARK_WIRE 0x70e40001   /* device to peer */
#define MARK_INJECT 0x70e40002 /* device to the program's socket */

/* Addresses and ports in network order; an IPv4 address is the first four
 * octets of its field. Everything else is zero: it is a hash key. */
struct flow_key {
	u8 local[16], remote[16];
	u16 local_port, remote_port;
	u8 family; /* 4 or 6 */
	u8 zero[3];
};

/* The device's own. */
struct pulse {
	u64 heartbeat;
	u8 load[296]; /* struct abi.Load; not looked into by any program */
};

/* The device can only read it. */
struct control {
	u64 stale_after;
	u32 fenced, host_port, uplink, link_header;
	u64 to_device, injected, dropped, bypassed, fences;
	u64 dead_hops[7];
	u32 bypassing, zero;
};

struct flow_entry {
	u64 hwid;
	u32 mark, priority; /* of S's last frame, with seen */
	u32 seen, bypassed;
};

/* As far as programs look into it. */
struct hardware_part {
	u64 sequence, hwid;
	u8 place, state, recovery, attachment;
	u32 snd_una, snd_nxt, rcv_nxt, rcv_acked;
	u32 snd_wnd, rcv_wnd;
	u32 srtt, rttvar, rto;
	u32 cwnd, ssthresh;
	u32 held_out, held_in;
	u32 reason, min_rtt;
	u64 bytes_sent, bytes_received;
	u64 segs_sent, segs_received;
	u64 retransmits, out_of_order;
	u8 congestion_control[16];
	u64 bytes_resent, delivery_rate, pacing_rate;
	u32 unacked, sacked, lost, resent;
	u32 mss, other;
};

struct ledger_part {
	u64 sequence, hwid, taken, delivered;
	u32 snd_una, snd_start, snd_end, rcv_start, host_nxt, zero[3];
};

struct channel_part {
	u64 out, in, read, read_at, passed;
	u32 open, limit, flags, out_at;
	u64 taken;
};

enum { /* channel_part.flags */
	CHANNEL_LEFT_UNREAD = 1 << 0,
	CHANNEL_RCVLOWAT = 1 << 1,
	CHANNEL_ZEROCOPY = 1 << 2,
	CHANNEL_NOTSENT_LOWAT = 1 << 3,
	CHANNEL_CLOSED = 1 << 4,
	CHANNEL_OPTION = 1 << 5,
};

struct block {
	u8 kernel_part[448], socket_part[64];
	struct hardware_part hardware;
	u8 private_state[120];
	struct ledger_part ledger;
	struct channel_part channel;
	u64 fragments;
};

enum { /* hardware_part.attachment */
	ATTACH_SHADOW,
	ATTACH_BYPASS,
};

enum { /* hardware_part.place */
	PLACE_OWNED = 2,
};

enum {
	FLAG_TIMESTAMPS = 1 << 0,
	FLAG_SACK = 1 << 1,
	FLAG_WINDOW_SCALE = 1 << 2,
	FLAG_ECN = 1 << 3,
	FLAG_PEER_FIN = 1 << 4,
	FLAG_LOCAL_FIN = 1 << 5,
	FLAG_ECHO_CE = 1 << 6,
	FLAG_CWR_DUE = 1 << 7,
};

enum {
	SPECIAL_MD5 = 1 << 0,
	SPECIAL_AO = 1 << 1,
	SPECIAL_MPTCP = 1 << 2,
	SPECIAL_ULP = 1 << 3,
	SPECIAL_URGENT = 1 << 4,
	SPECIAL_IP_OPTIONS = 1 << 5,
	SPECIAL_REPAIR = 1 << 6,
	SPECIAL_SOCKMAP = 1 << 7,
	SPECIAL_MISSING = 1 << 8,
	SPECIAL_ACCECN = 1 << 9,
};

struct cubic_state {
	u32 last_max_cwnd, origin, tcp_cwnd, k, epoch_age, delay_min;
	u8 in_epoch, found, zero[2];
};

struct dctcp_state {
	u32 alpha, loss_cwnd, ce;
};

struct bbr_state {
	u64 bandwidth, full_bandwidth, long_term;
	u32 min_rtt, min_rtt_age, cycle_age, prior_cwnd, extra_acked;
	u16 pacing_gain, cwnd_gain;
	u8 mode, cycle_index, full_count, filled, zero[4];
};

enum {
	SOCKET_NODELAY = 1 << 0,
	SOCKET_CORK = 1 << 1,
	SOCKET_KEEPALIVE = 1 << 2,
	SOCKET_LINGER = 1 << 3,
	SOCKET_SNDBUF = 1 << 4,
	SOCKET_RCVBUF = 1 << 5,
};

struct socket_state {
	u32 sndbuf, rcvbuf, send_memory, rcvlowat, notsent_lowat;
	u32 priority, mark, linger;
	u8 ttl, tos, shutdown, flags;
	u32 sndbuf_most;
};

struct kernel_state {
	u64 cookie, bytes_sent, bytes_received;
	u8 congestion_control[16];
	u32 snd_una, snd_nxt, write_seq;
	u32 rcv_nxt, copied_seq, rcv_wup;
	u32 snd_wnd, rcv_wnd;
	u32 iss, irs;
	u32 srtt, rttvar, min_rtt, rto;
	u32 snd_cwnd, snd_ssthresh;
	u32 mss, ts_offset, ts_recent, retransmits;
	u32 bound_if, uid;
	u64 inode;
	u8 snd_wscale, rcv_wscale, state, flags;
	u32 special;
	u64 pacing_rate, max_pacing_rate;
	u32 ts_recent_age, sacked, lost, resent;
	u32 delivered, delivered_ce, rcv_ssthresh;
	u32 reordering, reordering_seen, idle;
	u32 user_timeout, keep_time, keep_interval;
	u8 keep_probes, probes_out, timeouts, backoff;
	u8 ca_state, keepalive, reo_wnd_steps, zero[5];
	struct cubic_state cubic;
	struct dctcp_state dctcp;
	struct bbr_state bbr;
	struct socket_state socket;
};

#endif
