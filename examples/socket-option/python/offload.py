"""Connects to an echo server, asks for its own connection to be offloaded,
and says where it is. docs/SOCKET-OPTION.md is about it.

    python3 offload.py 192.0.2.1 7
"""

import socket
import struct
import sys
import time

TOEHOLD_OFFLOAD = 0x7061  # at level IPPROTO_TCP (SOL_TCP)
AUTO, NEVER, NOW = range(3)
PLACES = ("kernel", "moving", "device")
OFFLOAD = struct.Struct("=IIQ40s")  # place, wish, hardware id, reason


def where(s):
    """The place of a connection and the reason of its last move."""
    answer = s.getsockopt(socket.IPPROTO_TCP, TOEHOLD_OFFLOAD, OFFLOAD.size)
    place, _, _, reason = OFFLOAD.unpack(answer)
    return PLACES[place], reason.rstrip(b"\0").decode()


def settled(s):
    """Waits until a move has ended, one way or the other."""
    for _ in range(1000):
        place, reason = where(s)
        if place != "moving" and reason:
            break
        time.sleep(0.01)
    return place, reason


def main(host, port):
    with socket.create_connection((host, port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, TOEHOLD_OFFLOAD, NOW)
        print(*settled(s))
        s.sendall(b"hello\n")
        print(s.makefile().readline(), end="")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: offload.py HOST PORT")
    main(sys.argv[1], sys.argv[2])
