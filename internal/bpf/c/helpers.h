/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What BPF programs call the kernel by, as include/uapi/linux/bpf.h numbers
 * it. Only what is used here, so that no header of the machine is needed. */
#ifndef TOEHOLD_HELPERS_H
#define TOEHOLD_HELPERS_H

#define SEC(name) __attribute__((section(name), used))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define MAP_UINT(name, value) int(*name)[value]
#define MAP_TYPE(name, type) typeof(type) *name

typedef unsigned char u8;
typedef unsigned short u16;
typedef short s16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;

#define htons(x) ((u16)__builtin_bswap16(x))
#define ntohs(x) ((u16)__builtin_bswap16(x))

struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol;
	u32 vlan_present, vlan_tci, vlan_proto;
	u32 priority, ingress_ifindex, ifindex;
};

struct bpf_sock {
	u32 bound_dev_if, family, type, protocol, mark, priority;
	u32 src_ip4, src_ip6[4], src_port;
	u16 dst_port, : 16;
	u32 dst_ip4, dst_ip6[4];
	u32 state;
};

struct bpf_sockopt {
	union {
		struct bpf_sock *sk;
		u64 : 64;
	};
	union {
		void *optval;
		u64 : 64;
	};
	union {
		void *optval_end;
		u64 : 64;
	};
	s32 level, optname, optlen, retval;
};

struct bpf_sock_ops {
	u32 op;
	u32 : 32; /* and more that is not looked at */
	u8 more[176];
	union {
		struct bpf_sock *sk;
		u64 : 64;
	};
};

struct sk_msg_md {
	u64 data, data_end;
	u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4];
	u32 remote_port, local_port, size;
	union {
		struct bpf_sock *sk;
		u64 : 64;
	};
};

struct bpf_spin_lock {
	u32 val;
};

struct bpf_sock_tuple {
	union {
		struct {
			u32 saddr, daddr;
			u16 sport, dport;
		} ipv4;
		struct {
			u32 saddr[4], daddr[4];
			u16 sport, dport;
		} ipv6;
	};
};

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_SOCKHASH = 18,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_F_NO_PREALLOC = 1 << 0,
	BPF_F_CLONE = 1 << 9,
	BPF_F_MMAPABLE = 1 << 10,
	BPF_SK_STORAGE_GET_F_CREATE = 1,
	BPF_F_INGRESS = 1,
	SK_DROP = 0,
	SK_PASS = 1,
	TCX_NEXT = -1, /* the next program, then the stack */
	TCX_DROP = 2,
};
#define BPF_F_CURRENT_NETNS ((u64)-1)

struct seq_file;
struct socket;
struct file;
struct tcp_sock;
struct sock_common;

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static long (*bpf_skb_store_bytes)(struct __sk_buff *skb, u32 offset,
				   const void *from, u32 len,
				   u64 flags) = (void *)9;
static long (*bpf_redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*bpf_skb_load_bytes)(const void *skb, u32 offset, void *to,
				  u32 len) = (void *)26;
static long (*bpf_skb_change_head)(struct __sk_buff *skb, u32 len,
				   u64 flags) = (void *)43;
static u64 (*bpf_get_socket_cookie)(void *sk) = (void *)46;
static long (*bpf_setsockopt)(void *sk, int level, int option, void *value,
			      int len) = (void *)49;
static long (*bpf_msg_redirect_hash)(struct sk_msg_md *msg, void *map,
				     void *key, u64 flags) = (void *)71;
static long (*bpf_sk_release)(void *sk) = (void *)86;
static struct sock_common *(*bpf_skc_lookup_tcp)(void *ctx,
						 struct bpf_sock_tuple *tuple,
						 u32 size, u64 netns,
						 u64 flags) = (void *)99;
static long (*bpf_spin_lock)(struct bpf_spin_lock *lock) = (void *)93;
static long (*bpf_spin_unlock)(struct bpf_spin_lock *lock) = (void *)94;
static void *(*bpf_sk_storage_get)(void *map, void *sk, void *value,
				   u64 flags) = (void *)107;
static long (*bpf_probe_read_kernel)(void *to, u32 size,
				     const void *from) = (void *)113;
static u64 (*bpf_get_netns_cookie)(void *ctx) = (void *)122;
static long (*bpf_seq_write)(struct seq_file *m, const void *from,
			     u32 len) = (void *)127;
static u64 (*bpf_jiffies64)(void) = (void *)118;
static long (*bpf_ringbuf_output)(void *ringbuf, void *record, u64 size,
				  u64 flags) = (void *)130;
static u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)160;
static struct tcp_sock *(*bpf_skc_to_tcp_sock)(void *sk) = (void *)137;
static struct socket *(*bpf_sock_from_file)(struct file *file) = (void *)162;
static long (*bpf_set_retval)(int retval) = (void *)187;
static long (*bpf_loop)(u32 times, void *each, void *context,
			u64 flags) = (void *)181;

/* The buffer is a page at most, and not longer than what the program has. An
 * option that is longer, or an answer that tells how much room there should
 * have been, is the kernel's business: what we return must fit, or it becomes
 * EFAULT or a line in the log, and 0 stands for what the program and the
 * kernel have exchanged (Documentation/bpf/prog_cgroup_sockopt.rst). */
static ALWAYS_INLINE void leave_too_long(struct bpf_sockopt *ctx)
{
	void *start = ctx->optval, *end = ctx->optval_end;
	long room = end - start;

	if (ctx->optlen > room)
		ctx->optlen = 0;
}

#endif
