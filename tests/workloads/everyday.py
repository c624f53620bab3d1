"""A service that has something of everything: a loop that blocks at times, a pool that has more work than workers,
a thread that keeps the GIL, tasks, garbage, requests, a peer that it waits for.

usage: everyday.py
"""

import asyncio
import gc
import http.client
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from account import say


def hog():
    while True:
        sum(range(20_000))
        gc.collect(0)


async def request(pool):
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(pool, time.sleep, 0.05)


async def answer(reader, writer):
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while True:
        connection.request("GET", "/")
        connection.getresponse().read()
        time.sleep(0.02)


async def main():
    pool = ThreadPoolExecutor(2)
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    threading.Thread(target=hog, daemon=True).start()
    threading.Thread(target=ask, args=(port,), daemon=True).start()
    say(account="ready", pid=os.getpid())
    while True:
        requests = [asyncio.create_task(request(pool)) for _ in range(8)]
        await asyncio.wait(requests)
        time.sleep(0.15)


asyncio.run(main())
