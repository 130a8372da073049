package kernel

// Only this needs clang; what it makes is committed.

//go:generate go tool bpf2go -target bpfel -no-global-types -cflags "-O2 -g -Wall -Werror -mcpu=v3" sockets ../bpf/c/sockets.c -- -I../bpf/c
