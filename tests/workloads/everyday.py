"""A service that has something of everything: a loop that blocks at times, a pool that has more work than workers,
a thread that keeps the GIL, tasks, garbage.

usage: everyday.py
"""

import asyncio
import gc
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


async def main():
    pool = ThreadPoolExecutor(2)
    threading.Thread(target=hog, daemon=True).start()
    say(account="ready", pid=os.getpid())
    while True:
        requests = [asyncio.create_task(request(pool)) for _ in range(8)]
        await asyncio.wait(requests)
        time.sleep(0.15)


asyncio.run(main())
