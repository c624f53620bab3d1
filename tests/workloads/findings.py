"""Programs that a finding is about, and ones that come close to it.

usage: findings.py CASE     each case is a function here; those that end in _near must not raise it
"""

import asyncio
import concurrent.futures
import ctypes
import gc
import os
import resource
import sys
import threading
import time

from account import say


def ready():
    say(account="ready", pid=os.getpid())


def burn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def forever(work):
    while True:
        work()


def in_loop(main):
    async def run():
        ready()
        await main()

    asyncio.run(run())


def loop_blocked():
    async def main():
        while True:
            time.sleep(0.2)
            await asyncio.sleep(0.1)

    in_loop(main)


def loop_blocked_near():
    async def main():
        while True:
            time.sleep(0.05)
            await asyncio.sleep(0.05)

    in_loop(main)


def loop_saturated():
    async def task():
        while True:
            burn(0.002)
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(task() for _ in range(4)))

    in_loop(main)


def loop_saturated_near():
    async def main():
        while True:
            burn(0.005)
            await asyncio.sleep(0.005)

    in_loop(main)


def sleep_zero_spin():
    async def main():
        while True:
            await asyncio.sleep(0)

    in_loop(main)


def sleep_zero_spin_near():
    async def main():
        while True:
            for _ in range(10):
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)

    in_loop(main)


def task_pileup():
    async def main():
        kept = []
        while True:
            kept.append(asyncio.ensure_future(asyncio.sleep(3600)))
            await asyncio.sleep(0.01)

    in_loop(main)


def task_pileup_near():
    async def main():
        while True:
            kept = [asyncio.ensure_future(asyncio.sleep(0.5)) for _ in range(200)]
            await asyncio.gather(*kept)

    in_loop(main)


async def fails():
    raise ValueError("nobody looks")


def task_exception_never_retrieved():
    async def main():
        kept = [asyncio.ensure_future(fails()) for _ in range(5)]
        await asyncio.sleep(3600)
        print(kept)

    in_loop(main)


def task_exception_never_retrieved_near():
    async def main():
        while True:
            kept = [asyncio.ensure_future(fails()) for _ in range(5)]
            await asyncio.sleep(0.2)
            await asyncio.gather(*kept, return_exceptions=True)

    in_loop(main)


def executor_saturated():
    pool = concurrent.futures.ThreadPoolExecutor(2)
    for _ in range(1000):
        pool.submit(time.sleep, 0.5)
    ready()
    time.sleep(3600)


def executor_saturated_near():
    pool = concurrent.futures.ThreadPoolExecutor(4)
    for _ in range(4):
        pool.submit(time.sleep, 3600)
    ready()
    time.sleep(3600)


def gil_contention():
    for _ in range(3):
        threading.Thread(target=forever, args=(lambda: burn(1),), daemon=True).start()
    ready()
    time.sleep(3600)


def gil_contention_near():
    """One thread computes, others wait for something else."""
    for _ in range(3):
        threading.Thread(target=forever, args=(lambda: time.sleep(0.5),), daemon=True).start()
    threading.Thread(target=forever, args=(lambda: burn(1),), daemon=True).start()
    ready()
    time.sleep(3600)


def cpu_starved():
    """More programs than CPUs, on one CPU."""
    os.sched_setaffinity(0, {0})
    for _ in range(3):
        if os.fork() == 0:
            burn(60)
            os._exit(0)
    ready()
    burn(60)


def cpu_starved_near():
    os.sched_setaffinity(0, {0})
    ready()
    burn(60)


def lock_convoy():
    lock = threading.Lock()

    def work():
        with lock:
            time.sleep(0.05)

    for _ in range(5):
        threading.Thread(target=forever, args=(work,), daemon=True).start()
    ready()
    time.sleep(3600)


def lock_convoy_near():
    """Idle workers wait for work."""
    pool = concurrent.futures.ThreadPoolExecutor(8)
    for future in [pool.submit(time.sleep, 0.05) for _ in range(8)]:
        future.result()
    ready()
    time.sleep(3600)


def thread_churn():
    ready()
    while True:
        thread = threading.Thread(target=time.sleep, args=(0.001,))
        thread.start()
        thread.join()
        time.sleep(0.01)


def thread_churn_near():
    ready()
    while True:
        thread = threading.Thread(target=time.sleep, args=(0.001,))
        thread.start()
        thread.join()
        time.sleep(0.2)


def gc_heavy():
    kept = [[i] for i in range(300_000)]
    ready()
    while True:
        gc.collect()
        burn(0.01)
    print(kept)


def gc_heavy_near():
    ready()
    while True:
        gc.collect()
        burn(0.2)


def fd_exhaustion():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(85)]
    ready()
    time.sleep(3600)
    print(kept)


def fd_exhaustion_near():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]
    ready()
    time.sleep(3600)
    print(kept)


def native_hog():
    """Holds the GIL in C."""
    for _ in range(2):
        threading.Thread(
            target=forever, args=(lambda: ctypes.PyDLL(None).usleep(1000),), daemon=True
        ).start()
    ready()
    time.sleep(3600)


globals()[sys.argv[1]]()
