// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Iterators over what this machine has: TCP connections of the namespace that
 * the iterator was opened in, and the descriptors that processes have of
 * sockets. They write records for the reader of the iterator.
 */
#include "key.h"
#include "state.h"

struct socket_record {
	struct flow_key key;
	struct kernel_state state;
};

struct owner_record {
	u64 inode;
	u32 pid, fd;
	char comm[16];
};

SEC("iter/tcp")
int sockets(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct socket_record r = {};
	struct tcp_sock *tp;

	if (!skc || skc->skc_state == TCP_LISTEN || skc->skc_state == TCP_CLOSE)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp)
		return 0; /* TIME-WAIT, or not yet a connection */
	bpf_get_socket_cookie(tp); /* makes it, if nobody has asked yet */
	key_of(skc, &r.key);
	read_state(tp, &r.state);
	bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
	return 0;
}

SEC("iter/task_file")
int owners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct owner_record r = {};
	struct socket *s;
	struct sock *sk;

	if (!task || !file)
		return 0;
	s = bpf_sock_from_file(file);
	if (!s)
		return 0;
	sk = READ(s, sk);
	if (!sk || READ(sk, sk_protocol) != 6 /* TCP */)
		return 0;
	r.inode = file->f_inode->i_ino;
	r.pid = task->tgid;
	r.fd = ctx->fd;
	bpf_probe_read_kernel(r.comm, sizeof(r.comm), task->group_leader->comm);
	bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
