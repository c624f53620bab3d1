"""A program that says in JSON which executors it has, and then stays as it is.

One line on stdout; it ends when its standard input is closed. What it says comes from the functions
themselves, which say when and in which thread they are run.
"""

import asyncio
import concurrent.futures
import functools
import gc
import json
import multiprocessing
import os
import sys
import threading
import time

release = threading.Event()
begun = threading.Semaphore(0)
lock = threading.Lock()
# By pool: native ids of threads that were seen in it, and what runs there, by native id.
seen = {}
running = {}
pools = []


def enter(pool, name):
    with lock:
        seen.setdefault(pool, set()).add(threading.get_native_id())
        running.setdefault(pool, []).append([threading.get_native_id(), name])
    begun.release()


def hold(pool, *_):
    enter(pool, "__main__.hold")
    release.wait()


class Thing:
    def method(self, pool):
        enter(pool, "__main__.Thing.method")
        release.wait()

    def __call__(self, pool):
        enter(pool, "__main__.Thing.__call__")
        release.wait()


def deep(pool, depth):
    if depth:
        deep(pool, depth - 1)
    else:
        enter(pool, "__main__.deep")
        release.wait()


def meet(pool, barrier):
    with lock:
        seen.setdefault(pool, set()).add(threading.get_native_id())
    barrier.wait()


def make(pool, workers, **more):
    executor = concurrent.futures.ThreadPoolExecutor(
        workers, thread_name_prefix=pool, **more
    )
    return executor


def say(pool, executor, queued, **more):
    said = {
        "id": id(executor),
        "kind": "Thread",
        "prefix": pool,
        "workers": len(seen.get(pool, ())),
        "idle": len(seen.get(pool, ())) - len(running.get(pool, ())),
        "max": executor._max_workers if executor is not None else None,
        "queued": queued,
        "running": sorted(running.get(pool, [])),
    }
    said.update(more)
    pools.append(said)


# Processes, before there are threads: a fork of those may hang.
read, write = os.pipe()
parent = os.getpid()


def hold_process(_):
    os.write(write, b"x")
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(0)


process = concurrent.futures.ProcessPoolExecutor(
    2, mp_context=multiprocessing.get_context("fork")
)
futures = [process.submit(hold_process, 1) for _ in range(6)]
chunks = process.map(hold_process, range(6), chunksize=2)
for _ in range(2):
    os.read(read, 1)
pools.append(
    {
        "id": id(process),
        "kind": "Process",
        "prefix": None,
        "workers": len(process._processes),
        "idle": 0,
        "max": 2,
        "queued": 4 + 3,
        "running": [[None, "__main__.hold_process"]] * 2,
    }
)

# All workers are busy, and work waits.
busy = make("busy", 4)
for function in [
    functools.partial(functools.partial(hold, "busy"), 1),
    functools.partial(Thing().method, "busy"),
    functools.partial(Thing(), "busy"),
    lambda: hold("busy"),
]:
    busy.submit(function)
    begun.acquire()
running["busy"][3][1] = "__main__.<lambda>"
waiting = [busy.submit(hold, "busy") for _ in range(5000)]
say("busy", busy, 5000)

# Workers that have had work, and have none.
idle = make("idle", 4)
barrier = threading.Barrier(4)
concurrent.futures.wait([idle.submit(meet, "idle", barrier) for _ in range(4)])
say("idle", idle, 0)

# Some of each; a recursion deeper than a stack that is read as a rule.
mixed = make("mixed", 4)
barrier = threading.Barrier(4)
concurrent.futures.wait([mixed.submit(meet, "mixed", barrier) for _ in range(4)])
mixed.submit(deep, "mixed", 400)
mixed.submit(Thing().method, "mixed")
begun.acquire()
begun.acquire()
say("mixed", mixed, 0)

# It ends when its work is done.
stopped = make("stopped", 1)
stopped.submit(hold, "stopped")
begun.acquire()
stopped.submit(hold, "stopped")
stopped.submit(hold, "stopped")
stopped.shutdown(wait=False)
say("stopped", stopped, 2)

# Nobody has it any more, but its worker lives.
gone = make("gone", 1)
gone.submit(hold, "gone")
begun.acquire()
gone.submit(hold, "gone")
queue = gone._work_queue
del gone
gc.collect()
say("gone", None, 1, id=id(queue), prefix=None)

# Its worker is not ready yet.
starting = make("starting", 1, initializer=release.wait)
starting.submit(hold, "starting")
say("starting", starting, 1, workers=1, idle=0)

# Several hundred workers.
many = make("many", 300)
for _ in range(300):
    many.submit(hold, "many")
    begun.acquire()
say("many", many, 0)

# asyncio's own.
loops = []
keep = []


async def use_default():
    loop = asyncio.get_running_loop()
    loops.append(loop)
    keep.append(loop.run_in_executor(None, hold, "asyncio"))
    if hasattr(asyncio, "to_thread"):
        keep.append(asyncio.ensure_future(asyncio.to_thread(hold, "asyncio", 1)))
        keep.append(
            asyncio.ensure_future(asyncio.to_thread(functools.partial(hold, "asyncio")))
        )
    await asyncio.sleep(3600)


threading.Thread(target=lambda: asyncio.run(use_default()), daemon=True).start()
for _ in range(3 if hasattr(asyncio, "to_thread") else 1):
    begun.acquire()
default = loops[0]._default_executor
say("asyncio", default, 0, prefix=default._thread_name_prefix)

print(json.dumps(pools), flush=True)
sys.stdin.read()
os._exit(0)
