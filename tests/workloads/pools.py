"""Work that fails in thread pools, and who asks for it; counted by the program itself.

Two commands, each answered with what became of it. `drop`:
half of the work of a pool fails, and nobody keeps its futures. `ask`: half of the work of another
pool fails, and each future is asked for its result, twice; and half of that of the default executor
of a loop, which is awaited.
"""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

from account import commands, say

COUNT = 200


def work(index):
    if index % 4 == 0:
        raise ValueError(index)
    if index % 4 == 2:
        # Raised in C: up to 3.11 it is no object yet when it leaves this frame.
        return 1 // 0
    return index


def nested(index):
    return work(index)


async def awaited():
    loop = asyncio.get_running_loop()
    failed = 0
    for index in range(COUNT):
        try:
            await loop.run_in_executor(None, nested, index)
        except (ValueError, ZeroDivisionError):
            failed += 1
    return failed


async def alive():
    """A loop is there from the beginning, so that all of asyncio is."""
    loop = asyncio.get_running_loop()
    listening = commands()
    pools = {}
    for name in ("dropped", "asked"):
        pools[name] = ThreadPoolExecutor(4, thread_name_prefix=name)
        # Workers, so that a look meets it.
        pools[name].submit(int).result()
    say(account="ready", pid=os.getpid())
    while True:
        command = await loop.run_in_executor(None, lambda: next(listening, None))
        if command is None:
            return
        if command["do"] == "drop":
            for index in range(COUNT):
                pools["dropped"].submit(nested, index)
            pools["dropped"].submit(int).result()
            time.sleep(0.3)
            say(account="dropped", submitted=COUNT + 1, failed=COUNT // 2)
        elif command["do"] == "ask":
            futures = [pools["asked"].submit(nested, index) for index in range(COUNT)]
            failed = 0
            for future in futures:
                # The second time is not counted once more.
                for _ in range(2):
                    try:
                        future.result()
                    except (ValueError, ZeroDivisionError):
                        failed += 1
            say(account="asked", submitted=COUNT, failed=failed // 2, awaited=await awaited())


asyncio.run(alive())
