"""A loop that blocks at random moments, and a heartbeat that tells when it was late, and how long.

usage: moments.py [--loop asyncio|uvloop] [--busy PERCENT]

For each stall: when it began and ended by the program's own clock (CLOCK_MONOTONIC, ns). Half of the
stalls sleep, half compute; their lengths are from 30 to 200 ms. --busy: other tasks take so much of the
loop's time in steps of 1 ms. A line on stdin: says the stalls so far.
"""

import argparse
import asyncio
import os
import random
import sys
import threading
import time

from account import say

stalls = []


def burn(length):
    end = time.monotonic() + length
    while time.monotonic() < end:
        pass


async def stall(number):
    length = random.uniform(0.03, 0.2)
    kind, function = [("sleep", time.sleep), ("cpu", burn)][number % 2]
    begin = time.monotonic_ns()
    function(length)
    stalls.append(
        dict(kind=kind, function="stall", begin_ns=begin, end_ns=time.monotonic_ns())
    )


async def stall_again():
    for number in range(1_000_000):
        await asyncio.sleep(random.uniform(0.05, 0.25))
        await asyncio.create_task(stall(number))


async def heartbeat():
    while True:
        await asyncio.sleep(0.005)


async def steps(share, step=0.001):
    while True:
        burn(step)
        await asyncio.sleep(step / share - step)


def listen():
    for _ in sys.stdin:
        say(account="stalls", stalls=list(stalls))
    os._exit(0)


async def main(busy):
    tasks = [asyncio.create_task(stall_again()), asyncio.create_task(heartbeat())]
    if busy:
        tasks.append(asyncio.create_task(steps(busy / 100)))
    threading.Thread(target=listen, daemon=True).start()
    say(account="ready", pid=os.getpid())
    await asyncio.wait(tasks)


parser = argparse.ArgumentParser()
parser.add_argument("--loop", default="asyncio")
parser.add_argument("--busy", type=float, default=0)
options = parser.parse_args()
if options.loop == "uvloop":
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
asyncio.run(main(options.busy))
