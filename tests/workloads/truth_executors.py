"""Executors with known workers and work; account: executors."""

import asyncio
import concurrent.futures
import functools
import multiprocessing
import os
import threading
import time

import truth

FOREVER = threading.Event()
HAS_TO_THREAD = hasattr(asyncio, "to_thread")
lock = threading.Lock()
begun = threading.Semaphore(0)
# By name prefix: native ids of all workers, and what runs in which.
workers = {}
running = {}
described = []
kept = []
# Written to by workers in other processes.
read_end, write_end = os.pipe()
parent = os.getpid()


def enters(prefix, name):
    """A worker says that it runs this; it does not come back."""
    with lock:
        running.setdefault(prefix, []).append({"tid": threading.get_native_id(), "function": name})
        workers.setdefault(prefix, set()).add(threading.get_native_id())
    begun.release()
    FOREVER.wait()


def holds(prefix, *_):
    enters(prefix, "__main__.holds")


def naïve(prefix):
    enters(prefix, "__main__.naïve")


class Thing:
    def method(self, prefix):
        enters(prefix, "__main__.Thing.method")

    def __call__(self, prefix):
        enters(prefix, "__main__.Thing.__call__")


def meets(prefix, barrier):
    """A worker that will have had work."""
    with lock:
        workers.setdefault(prefix, set()).add(threading.get_native_id())
    barrier.wait()


def holds_process(_):
    os.write(write_end, b"x")
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(0)


def pool(prefix, size, **more):
    executor = concurrent.futures.ThreadPoolExecutor(size, thread_name_prefix=prefix, **more)
    kept.append(executor)
    return executor


def describe(prefix, size, queued, **more):
    works = sorted(running.get(prefix, []), key=lambda one: one["tid"])
    count = len(workers.get(prefix, ()))
    one = {
        "kind": "thread",
        "name_prefix": prefix,
        "workers": count,
        "workers_idle": count - len(works),
        "max_workers": size,
        "queued": queued,
        "running": works,
        "unfinished": queued + len(works),
    }
    one.update(more)
    described.append(one)


def process_pool():
    # Before there are threads: a fork of those may hang.
    context = multiprocessing.get_context("fork")
    executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
    kept.append(executor)
    kept.extend(executor.submit(holds_process, 1) for _ in range(6))
    kept.append(executor.map(holds_process, range(6), chunksize=2))
    for _ in range(2):
        os.read(read_end, 1)
    described.append(
        {
            "kind": "process",
            "name_prefix": None,
            "workers": len(executor._processes),
            "workers_idle": 0,
            "max_workers": 2,
            "queued": 4 + 3,
            "running": [{"tid": None, "function": "__main__.holds_process"}] * 2,
            "unfinished": 2 + 4 + 3,
        }
    )


def busy_pool():
    executor = pool("busy", 5)
    works = [
        functools.partial(functools.partial(holds, "busy"), 1),
        functools.partial(Thing().method, "busy"),
        functools.partial(Thing(), "busy"),
        lambda: enters("busy", "__main__.busy_pool.<locals>.<lambda>"),
        functools.partial(naïve, "busy"),
    ]
    for work in works:
        executor.submit(work)
        begun.acquire()
    kept.extend(executor.submit(holds, "busy") for _ in range(3000))
    describe("busy", 5, 3000)


def gather(executor, prefix, size):
    barrier = threading.Barrier(size)
    concurrent.futures.wait([executor.submit(meets, prefix, barrier) for _ in range(size)])


def idle_pools():
    gather(pool("idle", 40), "idle", 40)
    describe("idle", 40, 0)
    mixed = pool("m\u00efxed \u4e16", 6)
    gather(mixed, "m\u00efxed \u4e16", 4)
    for work in (holds, Thing().method):
        mixed.submit(work, "m\u00efxed \u4e16")
        begun.acquire()
    describe("m\u00efxed \u4e16", 6, 0)


def ending_pool():
    """It has been told to end when its work is done."""
    executor = pool("ending", 1)
    kept.extend(executor.submit(holds, "ending") for _ in range(4))
    begun.acquire()
    executor.shutdown(wait=False)
    describe("ending", 1, 3)


def unnamed_pool():
    """It is named by its number."""
    executor = concurrent.futures.ThreadPoolExecutor(2)
    kept.append(executor)
    prefix = executor._thread_name_prefix
    executor.submit(holds, prefix)
    begun.acquire()
    describe(prefix, 2, 0)


async def uses_default(ready):
    loop = asyncio.get_running_loop()
    kept.append(loop.run_in_executor(None, holds, "asyncio"))
    if HAS_TO_THREAD:
        kept.append(asyncio.ensure_future(asyncio.to_thread(holds, "asyncio", 1)))
    kept.append(loop)
    await asyncio.sleep(0.01)
    ready.set()
    await asyncio.sleep(36000)


def default_pool():
    ready = threading.Event()
    threading.Thread(target=lambda: asyncio.run(uses_default(ready)), daemon=True).start()
    ready.wait()
    for _ in range(1 + HAS_TO_THREAD):
        begun.acquire()
    (loop,) = [one for one in kept if isinstance(one, asyncio.AbstractEventLoop)]
    default = loop._default_executor
    describe("asyncio", default._max_workers, 0, name_prefix=default._thread_name_prefix)


def main():
    process_pool()
    busy_pool()
    idle_pools()
    ending_pool()
    unnamed_pool()
    default_pool()
    truth.tell(lambda: {"executors": {"executors": described}})


main()
