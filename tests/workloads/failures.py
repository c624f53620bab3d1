"""Futures that failed: kept and dropped, with and without somebody who asked.

usage: failures.py
"""

import asyncio
import concurrent.futures
import os
import sys
import threading

from account import say


class Custom(Exception):
    pass


async def fails(error):
    raise error


def work(error):
    raise error


kept = []


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    for number in range(300):
        # Nobody keeps these.
        asyncio.ensure_future(fails(ArithmeticError(number)))
    for number in range(5):
        future = loop.create_future()
        future.set_exception(Custom(number))
        kept.append(future)
        if number < 2:
            future.exception()
    kept.extend(asyncio.ensure_future(fails(LookupError(number))) for number in range(4))
    pool = concurrent.futures.ThreadPoolExecutor(1)
    kept.extend(pool.submit(work, ValueError(number)) for number in range(6))
    kept.append(pool.submit(int))
    await asyncio.sleep(0.3)
    kept[5].exception()
    say(account="ready", pid=os.getpid())
    await loop.create_future()


def ends_with_stdin():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=ends_with_stdin, daemon=True).start()
asyncio.run(main())
