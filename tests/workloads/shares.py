"""A connection that is read by two processes in turn.

usage: shares.py

A command on stdin: the connection is accepted; a child, then the process itself, reads a request and answers, and it
says so each time.
"""

import os
import socket

from account import commands, say


def serve(connection):
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


listener = socket.create_server(("127.0.0.1", 0))
child_end, own_end = socket.socketpair()
if os.fork() == 0:
    own_end.close()
    _, descriptors, _, _ = socket.recv_fds(child_end, 1, 1)
    serve(socket.socket(fileno=descriptors[0]))
    child_end.sendall(b".")
    os._exit(0)
say(account="ready", pid=os.getpid(), port=listener.getsockname()[1])
for _ in commands():
    connection, _ = listener.accept()
    socket.send_fds(own_end, [b"."], [connection.fileno()])
    own_end.recv(1)
    say(account="served", by="child")
    serve(connection)
    say(account="served", by="parent")
