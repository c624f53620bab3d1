"""A client of two servers that keeps its own account of how long it waited for each.

usage: peers.py KEPT FRESH

KEPT is the port of a server to which one thread keeps a connection, and reads without a timeout; to FRESH another one makes a
connection for each exchange, with a timeout. A command on stdin: each asks so many times; says how long connects and reads
took, ns, by port. With "loop", an event loop asks FRESH for what takes long.
"""

import asyncio
import os
import socket
import sys
import threading
import time

from account import commands, say

KEPT, FRESH = int(sys.argv[1]), int(sys.argv[2])
waited = {}
kept = socket.create_connection(("127.0.0.1", KEPT))


def ask(connection, port):
    connection.sendall(b"?")
    begin = time.monotonic_ns()
    assert connection.recv(1) == b"!"
    waited[port] += time.monotonic_ns() - begin


def ask_kept(count):
    for _ in range(count):
        ask(kept, KEPT)


def ask_fresh(count):
    for _ in range(count):
        with socket.socket() as connection:
            connection.settimeout(10)
            connection.connect(("127.0.0.1", FRESH))
            ask(connection, FRESH)


async def ask_in_loop():
    reader, writer = await asyncio.open_connection("127.0.0.1", FRESH)
    writer.write(b"w")
    assert await reader.readexactly(1) == b"!"
    writer.close()


def main():
    say(account="ready", pid=os.getpid())
    for command in commands():
        waited.update({KEPT: 0, FRESH: 0})
        if command.get("loop"):
            asyncio.run(ask_in_loop())
        else:
            asking = [
                threading.Thread(target=of, args=(command["count"],)) for of in (ask_kept, ask_fresh)
            ]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join()
        say(account="asked", waited=waited)
    os._exit(0)


main()
