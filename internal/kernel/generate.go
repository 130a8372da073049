package kernel

// Only these need clang; what they make is committed.

//go:generate go tool bpf2go -target bpfel -no-global-types -cflags "-O2 -g -Wall -Werror -mcpu=v3" sockets ../bpf/c/sockets.c -- -I../bpf/c
//go:generate go tool bpf2go -target bpfel -no-global-types -cflags "-O2 -g -Wall -Werror -mcpu=v3" measures ../bpf/c/measures.c -- -I../bpf/c
