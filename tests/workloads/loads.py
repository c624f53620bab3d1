"""An event loop with a known load, and its own account of it.

usage: loads.py MODE

callbacks  200 callbacks of 1 ms in a row, again and again; no task
spin       five tasks of 1 ms and sleep(0)
shares     ten tasks with shares of the CPU from 1 to 30 percent, two that block in time.sleep
busy       steps of 5 ms, a fifth of the time
"""

import asyncio
import os
import sys
import time

from account import say

SHARES = [1, 2, 3, 4, 5, 6, 7, 8, 12, 30]
BLOCKED = [5, 8]


def burn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def steps(share, step=0.005):
    while True:
        burn(step)
        await asyncio.sleep(step / share - step)


async def never_sleeps(step):
    while True:
        burn(step)
        await asyncio.sleep(0)


async def worker(number, share, account):
    period = 0.05
    begin = time.monotonic()
    turn = 0
    while True:
        before = time.thread_time_ns()
        burn(period * share / 100)
        account["on_cpu_ns"] += time.thread_time_ns() - before
        turn += 1
        await asyncio.sleep(max(0, begin + turn * period - time.monotonic()))


async def sleeper(share, account):
    period = 0.2
    while True:
        before = time.monotonic_ns()
        time.sleep(period * share / 100)
        account["blocked_ns"] += time.monotonic_ns() - before
        await asyncio.sleep(period * (1 - share / 100))


async def commands(accounts):
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        say(account="loads", at_ns=time.monotonic_ns(), tasks=accounts)


def named(coroutine, name):
    task = asyncio.get_running_loop().create_task(coroutine)
    task.set_name(name)
    return task


async def main(mode):
    kept = []
    accounts = {}
    if mode == "callbacks":

        def train():
            for _ in range(200):
                loop.call_soon(burn, 0.001)
            loop.call_later(0.5, train)

        loop = asyncio.get_running_loop()
        train()
    elif mode == "spin":
        kept += [named(never_sleeps(0.001), "spinner-%d" % i) for i in range(5)]
    elif mode == "shares":
        for number, share in enumerate(SHARES):
            name = "worker_" + "abcdefghij"[number]
            accounts[name] = {"on_cpu_ns": 0, "blocked_ns": 0}
            kept.append(named(worker(number, share, accounts[name]), name))
        for number, share in enumerate(BLOCKED):
            name = "sleeper_" + "ab"[number]
            accounts[name] = {"on_cpu_ns": 0, "blocked_ns": 0}
            kept.append(named(sleeper(share, accounts[name]), name))
    elif mode == "busy":
        kept.append(named(steps(0.2), "busy"))
    say(account="ready", pid=os.getpid())
    await commands(accounts)
    os._exit(0)


asyncio.run(main(sys.argv[1]))
