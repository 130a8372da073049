"""An ordinary program: receives and sends so many octets over one connection.

usage: exchange.py ADDRESS PORT OCTETS [fork]
"""
import hashlib
import os
import socket
import sys


def pattern(octets):
    block = bytes(i * 7 % 251 for i in range(65537))
    while octets > 0:
        piece = octets.to_bytes(8, "big") + block
        yield piece[:octets]
        octets -= len(piece)


def serve(conn, octets):
    received, sent = hashlib.sha256(), hashlib.sha256()
    left, buffer = octets, bytearray(100000)
    while left > 0:
        n = conn.recv_into(buffer, min(left, len(buffer)))
        if n == 0:
            sys.exit("the end came %d octets too soon" % left)
        received.update(memoryview(buffer)[:n])
        left -= n
    for piece in pattern(octets):
        conn.sendall(piece)
        sent.update(piece)
    print("received", received.hexdigest())
    print("sent", sent.hexdigest(), flush=True)
    if conn.recv(1) != b"":
        sys.exit("instead of the end came something")
    conn.close()


def main():
    address, port, octets = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, port))
        listener.listen()
        host, port = listener.getsockname()[:2]
        print("[%s]:%d" % (host, port) if ":" in host else "%s:%d" % (host, port), flush=True)
        conn, _ = listener.accept()
    if "fork" not in sys.argv:
        serve(conn, octets)
        return
    child = os.fork()
    if child == 0:
        serve(conn, octets)
        sys.stdout.flush()
        os._exit(0)
    conn.close()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


main()
