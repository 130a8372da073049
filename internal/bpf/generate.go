package bpf

//go:generate go tool bpf2go -target bpfel -no-global-types -cflags "-O2 -g -Wall -Werror -mcpu=v3" steer c/steer.c -- -Ic
