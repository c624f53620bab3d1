"""Loops of all sorts beside each other, one thread each; nothing blocks them but what is asked for.

usage: loops.py [--loop asyncio|uvloop]

callbacks  call_soon and call_later, no task beside the main one, which waits
tasks      tasks, an executor, and coroutines that another thread hands in
again      asyncio.run, again and again
restarted  the same loop, run again and again

A line on stdin: blocks each of them once, one after the other, and a thread of the executor, too; says
where and when (CLOCK_MONOTONIC, ns).
"""

import argparse
import asyncio
import os
import sys
import threading
import time

from account import say

LENGTH = 0.2
loops = {}
blocks = []
wanted = {name: threading.Event() for name in ("again", "restarted")}
done = threading.Event()


def block(function):
    begin = time.monotonic_ns()
    time.sleep(LENGTH)
    blocks.append(
        dict(
            kind="sleep",
            function=function,
            begin_ns=begin,
            end_ns=time.monotonic_ns(),
            tid=threading.get_native_id(),
        )
    )
    done.set()


def block_in_callback():
    block("block_in_callback")


async def block_in_task():
    block("block_in_task")


def rest_in_executor():
    time.sleep(1.5 * LENGTH)


async def run_callbacks():
    loop = loops["callbacks"] = asyncio.get_running_loop()

    def tick(count):
        if count:
            loop.call_soon(tick, count - 1)
        else:
            loop.call_later(0.01, tick, 5)

    tick(5)
    await loop.create_future()


async def work(period):
    while True:
        sum(range(1000))
        await asyncio.sleep(period)


async def run_tasks():
    loop = loops["tasks"] = asyncio.get_running_loop()
    tasks = [asyncio.ensure_future(work(0.005 + i / 1000)) for i in range(5)]
    while True:
        await loop.run_in_executor(None, time.sleep, 0.02)
        await asyncio.wait(tasks, timeout=0.01)


async def short(name):
    for _ in range(10):
        await asyncio.sleep(0.03)
        if wanted[name].is_set():
            wanted[name].clear()
            await asyncio.ensure_future(block_in_task())


def run_again():
    while True:
        asyncio.run(short("again"))


def run_restarted():
    loop = asyncio.new_event_loop()
    while True:
        loop.run_until_complete(short("restarted"))


def block_each():
    async def hand_in():
        await block_in_task()

    for start in (
        lambda: loops["callbacks"].call_soon_threadsafe(block_in_callback),
        lambda: asyncio.run_coroutine_threadsafe(hand_in(), loops["tasks"]),
        wanted["again"].set,
        wanted["restarted"].set,
    ):
        done.clear()
        start()
        done.wait()
        time.sleep(0.1)
    loops["tasks"].run_in_executor(None, rest_in_executor)
    time.sleep(2 * LENGTH)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="asyncio")
    if parser.parse_args().loop == "uvloop":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    threads = [
        threading.Thread(target=target, args=args, name=name, daemon=True)
        for name, target, *args in [
            ("callbacks", asyncio.run, run_callbacks()),
            ("tasks", asyncio.run, run_tasks()),
            ("again", run_again),
            ("restarted", run_restarted),
        ]
    ]
    for thread in threads:
        thread.start()
    while len(loops) < 2:
        time.sleep(0.01)
    tids = {thread.name: thread.native_id for thread in threads}
    say(account="ready", pid=os.getpid(), tids=tids)
    for _ in sys.stdin:
        block_each()
        say(account="blocks", blocks=list(blocks))
    os._exit(0)


main()
