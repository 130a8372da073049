// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Steering: who gets a frame of an offloaded flow, the device or the kernel.
 *
 *            wire                                              S
 *             |  filter: a copy to the device's packet socket  ^
 *             v  ingress: drops what the filter took           |
 *   uplink  ==+================================================+==
 *             ^  egress: the device's frames pass,             |
 *             |          S's go to the host port --------------+
 *   host port: inject turns the device's frames round, into the uplink
 *
 * Everything goes straight between wire and S as soon as the device's
 * heartbeat is stale or it is fenced, whoever else is alive.
 */
#include "kernel.h"
#include "lookup.h"
#include "toehold.h"

enum {
	ETH_P_IP = 0x0800,
	ETH_P_IPV6 = 0x86dd,
	IPPROTO_ICMP = 1,
	IPPROTO_TCP = 6,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_ICMPV6 = 58,
	ICMP_DEST_UNREACH = 3,
	ICMP_FRAG_NEEDED = 4,
	ICMPV6_PKT_TOOBIG = 2,
	PACKET_HOST = 0,
	TCP_LISTEN = 10,
	ETHER_HEADER = 14,
	FRAGMENT = 0x3fff, /* more fragments, or an offset */
	FRAGMENT_OFFSET = 0x1fff,
	FRAGMENT_OFFSET6 = 0xfff8,
	/* What fits into the device's buffers; BIG TCP can be longer. */
	MAX_FRAME = ETHER_HEADER + 65535,
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct control);
} control SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct pulse);
} pulse SEC(".maps");

/* Memory that driver and device share; a program only counts in it. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_UINT(max_entries, 1); /* set when loaded */
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct block);
} blocks SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 1); /* set when loaded */
	MAP_TYPE(key, struct flow_key);
	MAP_TYPE(value, struct flow_entry);
} flows SEC(".maps");

/* The frame that the filter took last on this CPU. The packet socket sees a
 * frame immediately before the ingress program does, on the same CPU and with
 * bottom halves off, so this is how the two agree, whatever is steered,
 * unsteered or fenced in between: the kernel is spared exactly what the
 * device has got. Without a packet socket nothing is dropped at all. */
struct taken {
	struct flow_key key;
	u32 seq;
	u32 len; /* 0: nothing taken */
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct taken);
} taken SEC(".maps");

/* A frame's addresses in the order of the packet. */
struct parsed {
	struct flow_key key; /* local: the sender */
	u32 seq;
};

struct ipv4 {
	u8 version_ihl, tos;
	u16 total, id, fragment;
	u8 ttl, protocol;
	u16 check;
	u8 source[4], destination[4];
	u16 source_port, destination_port;
	u32 seq;
};

struct ipv6 {
	u32 version_class_label;
	u16 length;
	u8 next_header, hop_limit;
	u8 source[16], destination[16];
	u16 source_port, destination_port;
	u32 seq;
};

/* An IPv6 fragment (RFC 8200, section 4.5), as far as its ports: only the
 * first one has them. */
struct fragment6 {
	u32 version_class_label;
	u16 length;
	u8 next_header, hop_limit;
	u8 source[16], destination[16];
	u8 then, reserved;
	u16 offset;
	u32 id;
	u16 source_port, destination_port;
};

/* A router's word that a segment was too large, which it quotes (RFC 1191,
 * section 4; RFC 4443, section 3.2). */
struct too_big4 {
	u8 version_ihl, tos;
	u16 total, id, fragment;
	u8 ttl, protocol;
	u16 check;
	u8 source[4], destination[4];
	u8 type, code;
	u16 icmp_check, unused, mtu;
	struct ipv4 quoted;
};

struct too_big6 {
	u32 version_class_label;
	u16 length;
	u8 next_header, hop_limit;
	u8 source[16], destination[16];
	u8 type, code;
	u16 icmp_check;
	u32 mtu;
	struct ipv6 quoted;
};

/* The two ports as they stand in a frame. */
static ALWAYS_INLINE u16 ports_source(u32 ports)
{
	return ports & 0xffff;
}

static ALWAYS_INLINE u16 ports_destination(u32 ports)
{
	return ports >> 16;
}

static ALWAYS_INLINE struct control *get_control(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

static ALWAYS_INLINE struct taken *get_taken(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&taken, &zero);
}

static ALWAYS_INLINE void count(u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

/* Whoever finds the heartbeat stale fences the device, so that it cannot come
 * back to life by itself and act on what it missed. A heartbeat after now is
 * one that was written since now was read. */
static ALWAYS_INLINE int alive(struct control *c)
{
	u32 zero = 0;
	struct pulse *p = bpf_map_lookup_elem(&pulse, &zero);
	u64 now = bpf_ktime_get_ns();
	u64 beat = p ? *(volatile u64 *)&p->heartbeat : 0;

	if (*(volatile u32 *)&c->fenced)
		return 0;
	if (now <= beat || now - beat <= *(volatile u64 *)&c->stale_after)
		return 1;
	if (__sync_val_compare_and_swap(&c->fenced, 0, 1) == 0)
		count(&c->fences);
	return 0;
}

static ALWAYS_INLINE int parse4(struct __sk_buff *skb, u32 at, struct parsed *p)
{
	struct ipv4 ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return 0;
	if (ip.version_ihl != 0x45 || ip.protocol != IPPROTO_TCP ||
	    ip.fragment & htons(FRAGMENT))
		return 0;
	__builtin_memcpy(p->key.local, ip.source, 4);
	__builtin_memcpy(p->key.remote, ip.destination, 4);
	p->key.local_port = ip.source_port;
	p->key.remote_port = ip.destination_port;
	p->key.family = 4;
	p->seq = ip.seq;
	return 1;
}

static ALWAYS_INLINE int parse6(struct __sk_buff *skb, u32 at, struct parsed *p)
{
	struct ipv6 ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return 0;
	if ((ip.version_class_label & 0xf0) != 0x60 ||
	    ip.next_header != IPPROTO_TCP)
		return 0;
	__builtin_memcpy(p->key.local, ip.source, 16);
	__builtin_memcpy(p->key.remote, ip.destination, 16);
	p->key.local_port = ip.source_port;
	p->key.remote_port = ip.destination_port;
	p->key.family = 6;
	p->seq = ip.seq;
	return 1;
}

/* Reads a plain TCP frame. Fragments, IP options, extension headers and
 * everything else give 0 and are the kernel's. So are frames with an 802.1Q
 * tag: their flow belongs to the VLAN interface above this uplink, which is
 * an uplink of its own, where the tag is gone. */
static ALWAYS_INLINE int parse(struct __sk_buff *skb, struct control *c,
			       struct parsed *p)
{
	u32 at = c->link_header;

	__builtin_memset(p, 0, sizeof(*p));
	if (skb->vlan_present || at > ETHER_HEADER)
		return 0;
	if (skb->protocol == htons(ETH_P_IP))
		return parse4(skb, at, p);
	if (skb->protocol == htons(ETH_P_IPV6))
		return parse6(skb, at, p);
	return 0;
}

static ALWAYS_INLINE int too_big4(struct __sk_buff *skb, u32 at,
				  struct flow_key *k)
{
	struct too_big4 m;

	if (bpf_skb_load_bytes(skb, at, &m, sizeof(m)))
		return 0;
	if (m.version_ihl != 0x45 || m.protocol != IPPROTO_ICMP ||
	    m.fragment & htons(FRAGMENT) || m.type != ICMP_DEST_UNREACH ||
	    m.code != ICMP_FRAG_NEEDED || m.quoted.version_ihl != 0x45 ||
	    m.quoted.protocol != IPPROTO_TCP)
		return 0;
	__builtin_memcpy(k->local, m.quoted.source, 4);
	__builtin_memcpy(k->remote, m.quoted.destination, 4);
	k->local_port = m.quoted.source_port;
	k->remote_port = m.quoted.destination_port;
	k->family = 4;
	return 1;
}

static ALWAYS_INLINE int too_big6(struct __sk_buff *skb, u32 at,
				  struct flow_key *k)
{
	struct too_big6 m;

	if (bpf_skb_load_bytes(skb, at, &m, sizeof(m)))
		return 0;
	if ((m.version_class_label & 0xf0) != 0x60 ||
	    m.next_header != IPPROTO_ICMPV6 || m.type != ICMPV6_PKT_TOOBIG ||
	    m.quoted.next_header != IPPROTO_TCP)
		return 0;
	__builtin_memcpy(k->local, m.quoted.source, 16);
	__builtin_memcpy(k->remote, m.quoted.destination, 16);
	k->local_port = m.quoted.source_port;
	k->remote_port = m.quoted.destination_port;
	k->family = 6;
	return 1;
}

static ALWAYS_INLINE int fragment4(struct __sk_buff *skb, u32 at,
				   struct flow_key *k)
{
	struct ipv4 ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return 0;
	if (ip.version_ihl != 0x45 || ip.protocol != IPPROTO_TCP ||
	    !(ip.fragment & htons(FRAGMENT)) ||
	    ip.fragment & htons(FRAGMENT_OFFSET))
		return 0;
	__builtin_memcpy(k->local, ip.destination, 4);
	__builtin_memcpy(k->remote, ip.source, 4);
	k->local_port = ip.destination_port;
	k->remote_port = ip.source_port;
	k->family = 4;
	return 1;
}

/* One that is the whole packet (RFC 6946) counts too: the device gets it as
 * little as any. */
static ALWAYS_INLINE int fragment6(struct __sk_buff *skb, u32 at,
				   struct flow_key *k)
{
	struct fragment6 f;

	if (bpf_skb_load_bytes(skb, at, &f, sizeof(f)))
		return 0;
	if ((f.version_class_label & 0xf0) != 0x60 ||
	    f.next_header != IPPROTO_FRAGMENT || f.then != IPPROTO_TCP ||
	    f.offset & htons(FRAGMENT_OFFSET6))
		return 0;
	__builtin_memcpy(k->local, f.destination, 16);
	__builtin_memcpy(k->remote, f.source, 16);
	k->local_port = f.destination_port;
	k->remote_port = f.source_port;
	k->family = 6;
	return 1;
}

/* Counts the peer's segments that come as fragments, by the first of each. The
 * kernel puts them together and has them alone. */
static ALWAYS_INLINE void count_fragment(struct __sk_buff *skb,
					 struct control *c)
{
	u32 at = c->link_header, slot;
	struct flow_key k = {};
	struct flow_entry *f;
	struct block *b;
	int is = 0;

	if (skb->vlan_present || at > ETHER_HEADER)
		return;
	if (skb->protocol == htons(ETH_P_IP))
		is = fragment4(skb, at, &k);
	else if (skb->protocol == htons(ETH_P_IPV6))
		is = fragment6(skb, at, &k);
	f = is ? bpf_map_lookup_elem(&flows, &k) : 0;
	if (!f)
		return;
	slot = f->hwid; /* the lower half is the index */
	b = bpf_map_lookup_elem(&blocks, &slot);
	if (b)
		count(&b->fragments);
}

/* Reports that a frame says of a steered flow that its segments are too
 * large. Device and kernel both get it. */
static ALWAYS_INLINE int too_big(struct __sk_buff *skb, struct control *c)
{
	u32 at = c->link_header;
	struct flow_key k = {};
	int is = 0;

	if (skb->vlan_present || at > ETHER_HEADER)
		return 0;
	if (skb->protocol == htons(ETH_P_IP))
		is = too_big4(skb, at, &k);
	else if (skb->protocol == htons(ETH_P_IPV6))
		is = too_big6(skb, at, &k);
	return is && bpf_map_lookup_elem(&flows, &k);
}

static ALWAYS_INLINE void reverse(struct flow_key *k)
{
	u64 *l = (u64 *)k->local, *r = (u64 *)k->remote, a = l[0], b = l[1];
	u16 port = k->local_port;

	l[0] = r[0];
	l[1] = r[1];
	r[0] = a;
	r[1] = b;
	k->local_port = k->remote_port;
	k->remote_port = port;
}

/* Accepts what the device is to have: the peer's segments of steered flows, and
 * what routers say of the size of S's. Only frames addressed to this host:
 * others, of an interface in promiscuous mode or sent by this host itself,
 * the kernel's TCP would not take either. */
SEC("socket")
int filter(struct __sk_buff *skb)
{
	struct control *c = get_control();
	struct taken *t = get_taken();
	struct parsed p;

	if (!c || !t)
		return 0;
	if (skb->pkt_type != PACKET_HOST || skb->mark == MARK_INJECT ||
	    skb->len > MAX_FRAME)
		return 0;
	if (!parse(skb, c, &p)) {
		count_fragment(skb, c);
		return too_big(skb, c) && alive(c) ? -1 : 0;
	}
	reverse(&p.key);
	if (!bpf_map_lookup_elem(&flows, &p.key))
		return 0;
	if (!alive(c)) {
		count(&c->bypassed);
		return 0;
	}
	t->key = p.key;
	t->seq = p.seq;
	t->len = skb->len;
	return -1; /* all of it */
}

static ALWAYS_INLINE int same(const struct flow_key *a, const struct flow_key *b)
{
	const u64 *x = (const u64 *)a, *y = (const u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] &&
	       x[4] == y[4];
}

enum {
	NEXT_HOP_BY_HOP = 0,
	NEXT_ROUTING = 43,
	NEXT_DESTINATION = 60,
	MAX_EXTENSIONS = 6,
};

/* Finds the flow of a TCP frame whatever options, extensions and fragments it
 * has. All fragments but the first have no ports; without that one, nobody
 * puts them together. */
static ALWAYS_INLINE int any_flow4(struct __sk_buff *skb, u32 at,
				   struct flow_key *k)
{
	struct ipv4 ip;
	u32 ports;

	if (bpf_skb_load_bytes(skb, at, &ip, 20) || ip.protocol != IPPROTO_TCP ||
	    ip.fragment & htons(FRAGMENT_OFFSET))
		return 0;
	at += (ip.version_ihl & 0xf) * 4;
	if (bpf_skb_load_bytes(skb, at, &ports, sizeof(ports)))
		return 0;
	__builtin_memcpy(k->local, ip.destination, 4);
	__builtin_memcpy(k->remote, ip.source, 4);
	k->local_port = ports_destination(ports);
	k->remote_port = ports_source(ports);
	k->family = 4;
	return 1;
}

static ALWAYS_INLINE int any_flow6(struct __sk_buff *skb, u32 at,
				   struct flow_key *k)
{
	struct ipv6 ip;
	struct {
		u8 next, length;
		u16 offset; /* of a fragment */
	} extension;
	u32 ports;
	u8 next;

	if (bpf_skb_load_bytes(skb, at, &ip, 40))
		return 0;
	next = ip.next_header;
	at += 40;
	for (int i = 0; i < MAX_EXTENSIONS && next != IPPROTO_TCP; i++) {
		if (next != NEXT_HOP_BY_HOP && next != NEXT_ROUTING &&
		    next != NEXT_DESTINATION && next != IPPROTO_FRAGMENT)
			return 0;
		if (bpf_skb_load_bytes(skb, at, &extension, sizeof(extension)))
			return 0;
		if (next == IPPROTO_FRAGMENT) {
			if (extension.offset & htons(FRAGMENT_OFFSET6))
				return 0;
			extension.length = 0;
		}
		at += 8 + extension.length * 8;
		next = extension.next;
	}
	if (next != IPPROTO_TCP ||
	    bpf_skb_load_bytes(skb, at, &ports, sizeof(ports)))
		return 0;
	__builtin_memcpy(k->local, ip.destination, 16);
	__builtin_memcpy(k->remote, ip.source, 16);
	k->local_port = ports_destination(ports);
	k->remote_port = ports_source(ports);
	k->family = 6;
	return 1;
}

/* Reports that a frame is of a flow whose S is behind the wire: it would take
 * the frame for something else, so nobody but the device may have it. */
static ALWAYS_INLINE int not_for_socket(struct __sk_buff *skb,
					struct control *c)
{
	u32 at = c->link_header;
	struct flow_key k = {};
	struct flow_entry *f;
	int is = 0;

	if (!*(volatile u32 *)&c->bypassing || skb->vlan_present ||
	    at > ETHER_HEADER)
		return 0;
	if (skb->protocol == htons(ETH_P_IP))
		is = any_flow4(skb, at, &k);
	else if (skb->protocol == htons(ETH_P_IPV6))
		is = any_flow6(skb, at, &k);
	f = is ? bpf_map_lookup_elem(&flows, &k) : 0;
	return f && f->bypassed;
}

/* Keeps from the kernel what the filter took, and what S must not have. */
SEC("tcx/ingress")
int ingress(struct __sk_buff *skb)
{
	struct control *c = get_control();
	struct taken *t = get_taken();
	struct parsed p;
	u32 len;

	if (!c || !t)
		return TCX_NEXT;
	if (skb->mark == MARK_INJECT) {
		skb->mark = 0;
		return TCX_NEXT;
	}
	len = t->len;
	t->len = 0;
	if (len == 0 || len != skb->len || !parse(skb, c, &p) || p.seq != t->seq)
		return not_for_socket(skb, c) ? TCX_DROP : TCX_NEXT;
	reverse(&p.key);
	if (!same(&p.key, &t->key))
		return not_for_socket(skb, c) ? TCX_DROP : TCX_NEXT;
	count(&c->dropped);
	return TCX_DROP;
}

/* Gives a frame of an uplink without link header the Ethernet header that
 * the host port needs. Its addresses stay zero; nobody looks at them. */
static ALWAYS_INLINE int add_link_header(struct __sk_buff *skb)
{
	struct {
		u8 addresses[12];
		u16 protocol;
	} header = { .protocol = skb->protocol };

	if (bpf_skb_change_head(skb, sizeof(header), 0))
		return 0;
	return bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0) == 0;
}

/* Notes mark and priority of a frame of S: what SO_MARK and SO_PRIORITY say,
 * and the rules that it has passed. */
static ALWAYS_INLINE void note_class(struct flow_entry *f,
				     const struct __sk_buff *skb)
{
	u32 mark = skb->mark, priority = skb->priority;

	if (f->seen && f->mark == mark && f->priority == priority)
		return;
	f->mark = mark;
	f->priority = priority;
	f->seen = 1;
}

/* Gives a frame of the device what S itself has, as there is no frame of S to
 * go by: none has come yet, or the flow has just been un-steered. */
static ALWAYS_INLINE void class_of_socket(struct __sk_buff *skb,
					  const struct flow_key *k)
{
	struct sock_common *skc = lookup(skb, k);
	struct tcp_sock *tp;
	struct sock *sk;

	if (!skc)
		return;
	tp = bpf_skc_to_tcp_sock(skc);
	sk = (struct sock *)tp;
	if (tp && sk->__sk_common.skc_state != TCP_LISTEN) {
		skb->mark = sk->sk_mark;
		skb->priority = sk->sk_priority;
	}
	bpf_sk_release(skc);
}

/* Gives a frame of the device the mark and the priority of S's, which queueing
 * disciplines and filters go by. */
static ALWAYS_INLINE void set_class(struct __sk_buff *skb, struct control *c)
{
	struct flow_entry *f;
	struct parsed p;

	skb->mark = 0;
	if (!parse(skb, c, &p))
		return;
	f = bpf_map_lookup_elem(&flows, &p.key);
	if (!f || !f->seen) {
		class_of_socket(skb, &p.key);
		return;
	}
	skb->mark = f->mark;
	skb->priority = f->priority;
}

/* Lets the device's frames out, and turns S's to the device. */
SEC("tcx/egress")
int egress(struct __sk_buff *skb)
{
	struct control *c = get_control();
	struct flow_entry *f;
	struct parsed p;

	if (!c)
		return TCX_NEXT;
	if (skb->mark == MARK_WIRE) {
		if (!alive(c))
			return TCX_DROP;
		set_class(skb, c);
		return TCX_NEXT;
	}
	if (!parse(skb, c, &p))
		return TCX_NEXT;
	f = bpf_map_lookup_elem(&flows, &p.key);
	if (!f)
		return TCX_NEXT;
	if (!alive(c)) {
		if (f->bypassed)
			return TCX_DROP; /* the peer would not know it */
		count(&c->bypassed);
		return TCX_NEXT;
	}
	if (c->link_header == 0 && !add_link_header(skb))
		return TCX_DROP; /* no memory: S sends it again */
	note_class(f, skb);
	count(&c->to_device);
	return bpf_redirect(c->host_port, 0);
}

/* Hands what the device writes into the host port to the kernel, as if it
 * came from the uplink. */
SEC("tcx/ingress")
int inject(struct __sk_buff *skb)
{
	struct control *c = get_control();

	if (!c || !alive(c))
		return TCX_DROP;
	skb->mark = MARK_INJECT;
	count(&c->injected);
	return bpf_redirect(c->uplink, BPF_F_INGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
