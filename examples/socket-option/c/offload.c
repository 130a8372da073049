/* Connects to an echo server, asks for its own connection to be offloaded,
 * and says where it is. docs/SOCKET-OPTION.md is about it.
 *
 *	cc -o offload offload.c && ./offload 192.0.2.1 7
 */
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOEHOLD_OFFLOAD 0x7061 /* at level IPPROTO_TCP (SOL_TCP) */

enum { AUTO, NEVER, NOW };
enum { KERNEL, MOVING, DEVICE };

struct offload {
	uint32_t place, wish;
	uint64_t id; /* generation in the upper half, index in the lower; 0 in the kernel */
	char reason[40];
};

static int dial(const char *host, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *a;
	int s;

	if (getaddrinfo(host, port, &hints, &a))
		return -1;
	s = socket(a->ai_family, SOCK_STREAM, 0);
	if (s >= 0 && connect(s, a->ai_addr, a->ai_addrlen)) {
		close(s);
		s = -1;
	}
	freeaddrinfo(a);
	return s;
}

/* Waits until a move has ended, one way or the other. */
static int settled(int s, struct offload *o)
{
	for (int i = 0; i < 1000; i++) {
		socklen_t len = sizeof(*o);

		if (getsockopt(s, IPPROTO_TCP, TOEHOLD_OFFLOAD, o, &len))
			return -1;
		if (o->place != MOVING && o->reason[0])
			break;
		usleep(10000);
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const places[] = { "kernel", "moving", "device" };
	struct offload o;
	char echo[6];
	int s, wish = NOW;

	if (argc != 3) {
		fprintf(stderr, "usage: offload HOST PORT\n");
		return 2;
	}
	s = dial(argv[1], argv[2]);
	if (s < 0) {
		fprintf(stderr, "cannot connect to %s port %s\n", argv[1], argv[2]);
		return 1;
	}
	/* ENOPROTOOPT: no toehold here; EPERM: programs may not ask;
	 * EAGAIN: too many ask at once. The connection works in any case. */
	if (setsockopt(s, IPPROTO_TCP, TOEHOLD_OFFLOAD, &wish, sizeof(wish))) {
		perror("ask for an offload");
		return 1;
	}
	if (settled(s, &o)) {
		perror("ask where it is");
		return 1;
	}
	printf("%s %s\n", places[o.place], o.reason);
	if (write(s, "hello\n", 6) != 6 || recv(s, echo, 6, MSG_WAITALL) != 6) {
		perror("echo");
		return 1;
	}
	printf("%.6s", echo);
	return 0;
}
