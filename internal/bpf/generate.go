package bpf

// Only these need clang; what they make is committed.

//go:generate go tool bpf2go -target bpfel -no-global-types -cflags "-O2 -g -Wall -Werror -mcpu=v3" steer c/steer.c -- -Ic
//go:generate go tool bpf2go -target bpfel -no-global-types -cflags "-O2 -g -Wall -Werror -mcpu=v3" probe c/probe.c -- -Ic
//go:generate go tool bpf2go -target bpfel -no-global-types -cflags "-O2 -g -Wall -Werror -mcpu=v3" windows c/windows.c -- -Ic
//go:generate go tool bpf2go -target bpfel -no-global-types -cflags "-O2 -g -Wall -Werror -mcpu=v3" sockopt c/sockopt.c -- -Ic
//go:generate go tool bpf2go -target bpfel -no-global-types -cflags "-O2 -g -Wall -Werror -mcpu=v3" channel c/channel.c -- -Ic
