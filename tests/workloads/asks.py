"""A client that is sent what looks like a request, and answers like a server.

usage: asks.py PORT

A command on stdin: connects to the port, reads, answers, and says so.
"""

import os
import socket
import sys

from account import commands, say

say(account="ready", pid=os.getpid())
for _ in commands():
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        length = len(connection.recv(4096))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    say(account="answered", length=length)
