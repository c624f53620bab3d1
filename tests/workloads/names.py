"""Threads, pools, loops and tasks with all kinds of names, and the program's own account of them.

usage: names.py
"""

import asyncio
import concurrent.futures
import gc
import inspect
import os
import platform
import threading
import time
import types

from account import commands, say

FOREVER = threading.Event()
LINKS = ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable")


def waits():
    FOREVER.wait()


class Station:
    def serves(self):
        FOREVER.wait()


class Ticker(threading.Thread):
    def run(self):
        FOREVER.wait()


def make_inner():
    def inner():
        FOREVER.wait()

    return inner


def threads_of_all_kinds():
    """(thread, entry, role) of every thread that is started here."""
    made = [
        (threading.Thread(target=waits, daemon=True), "__main__.waits"),
        (threading.Thread(target=waits, name="not-a-daemon"), "__main__.waits"),
        (threading.Thread(target=waits, name="w\u00f6rker", daemon=True), "__main__.waits"),
        (threading.Thread(target=waits, name="\u5de5\u4f5c", daemon=True), "__main__.waits"),
        (threading.Thread(target=waits, name="\U0001f40d-snake", daemon=True), "__main__.waits"),
        (threading.Thread(target=waits, name="\x1b[31mred", daemon=True), "__main__.waits"),
        (threading.Thread(target=waits, name="long-" + "n" * 120, daemon=True), "__main__.waits"),
        (threading.Thread(target=Station().serves, name="method", daemon=True), "__main__.Station.serves"),
        (threading.Thread(target=make_inner(), name="closure", daemon=True), "__main__.make_inner.<locals>.inner"),
        (Ticker(name="subclass", daemon=True), "__main__.Ticker.run"),
    ]
    for thread, _ in made:
        thread.start()
    renamed = threading.Thread(target=waits, name="before", daemon=True)
    renamed.start()
    renamed.name = "after"
    made.append((renamed, "__main__.waits"))
    return [(thread, entry, "other") for thread, entry in made]


def pool_of_two():
    known = set(threading.enumerate())
    pool = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="crunch")
    for _ in range(2):
        pool.submit(FOREVER.wait)
    workers = [t for t in threading.enumerate() if t not in known]
    return [(t, "concurrent.futures.thread._worker", "pool") for t in workers]


async def naps():
    await asyncio.sleep(3600)


async def outer():
    await middle()


async def middle():
    await innermost()


async def innermost():
    await asyncio.sleep(3600)


async def awaits_future(future):
    await future


async def gets(queue):
    await queue.get()


async def gathers():
    await asyncio.gather(naps(), naps())


async def times_out():
    await asyncio.wait_for(naps(), 3600)


async def counts():
    for i in range(1000):
        yield i
        await asyncio.sleep(3600)


async def iterates():
    async for _ in counts():
        pass


@types.coroutine
def old_style():
    yield from asyncio.sleep(3600).__await__()


async def awaits_old_style():
    await old_style()


async def locks(lock):
    async with lock:
        await asyncio.sleep(3600)


async def awaits_task(task):
    await task


class Handler:
    async def handles(self):
        await asyncio.sleep(3600)


async def blocks_loop():
    await blocks_deeper()


async def blocks_deeper():
    await asyncio.sleep(0)
    time.sleep(36000)


def chain(link):
    """The frames from a coroutine down to the innermost one that waits, as the program sees them."""
    frames = []
    while link is not None:
        if inspect.iscoroutine(link):
            frame, awaited = link.cr_frame, link.cr_await
        elif inspect.isgenerator(link):
            frame, awaited = link.gi_frame, link.gi_yieldfrom
        elif inspect.isasyncgen(link):
            frame, awaited = link.ag_frame, link.ag_await
        elif type(link).__name__ in LINKS:
            frame = None
            kinds = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)
            awaited = next((o for o in gc.get_referents(link) if isinstance(o, kinds)), None)
        else:
            break
        if frame is not None:
            frames.append(
                {
                    "function": frame.f_code.co_name,
                    "qualname": link.__qualname__,
                    "file": frame.f_code.co_filename,
                    "line": frame.f_lineno,
                }
            )
        link = awaited
    return frames


def describe(task, tid, name=None, state="pending"):
    coroutine = task.get_coro()
    return {
        "tid": tid,
        "id": hex(id(task)),
        "name": task.get_name() if name is None else name,
        "coroutine": coroutine.__qualname__,
        "state": state,
        "awaiting": chain(coroutine) if state == "pending" else None,
    }


async def tasks_of_all_kinds(result, settled):
    tid = threading.get_native_id()
    create = asyncio.ensure_future
    # Nobody ever asks the first one for its name, so it may still be a number inside.
    silent = create(naps())
    asked = create(naps())
    number = int(asked.get_name().split("-")[1])
    lock = asyncio.Lock()
    first = create(locks(lock))
    tasks = [
        asked,
        create(outer()),
        create(awaits_future(asyncio.get_event_loop().create_future())),
        create(gets(asyncio.Queue())),
        create(gathers()),
        create(times_out()),
        create(iterates()),
        create(awaits_old_style()),
        first,
        create(locks(lock)),
        create(awaits_task(first)),
        create(Handler().handles()),
    ]
    for name in ("fetch-user", "h\u00e4mtar", "\u53d6\u5f97", "\U0001f680", ""):
        task = create(naps())
        task.set_name(name)
        tasks.append(task)
    await asyncio.sleep(0.2)
    result.append(describe(silent, tid, name="Task-%d" % (number - 1)))
    # gather and, before 3.12, wait_for make tasks of their own.
    for task in asyncio.all_tasks():
        if task is not silent and task is not asyncio.current_task():
            result.append(describe(task, tid))
    me = asyncio.current_task()
    waits_here = asyncio.get_event_loop().create_future()

    def from_outside():
        # Runs as a callback while this coroutine is suspended.
        result.append(describe(me, tid))
        settled.set()

    asyncio.get_event_loop().call_later(0.1, from_outside)
    await waits_here


async def one_running_task(result, settled):
    tid = threading.get_native_id()
    task = asyncio.ensure_future(blocks_loop())
    task.set_name("blocker")
    result.append(describe(task, tid, state="running"))
    result.append(dict(describe(asyncio.current_task(), tid, state="running"), state="pending"))
    settled.set()
    await task


def run_loop(coroutine_function, result, settled):
    asyncio.new_event_loop().run_until_complete(coroutine_function(result, settled))


def loop_thread(name, coroutine_function, tasks):
    settled = threading.Event()
    thread = threading.Thread(
        target=run_loop, name=name, args=(coroutine_function, tasks, settled), daemon=True
    )
    thread.start()
    settled.wait()
    return thread, "__main__.run_loop", "loop"


def main():
    tasks = []
    threads = [(threading.main_thread(), None, "main")]
    threads += threads_of_all_kinds()
    threads += pool_of_two()
    threads.append(loop_thread("loop-idle", tasks_of_all_kinds, tasks))
    threads.append(loop_thread("loop-blocked", one_running_task, tasks))
    time.sleep(0.2)
    say(
        account="ready",
        pid=os.getpid(),
        version=platform.python_version(),
        threads=[
            {
                "tid": t.native_id,
                "ident": t.ident,
                "name": t.name,
                "daemon": t.daemon,
                "entry": entry,
                "role": role,
            }
            for t, entry, role in threads
        ],
        tasks=tasks,
    )
    for _ in commands():
        pass
    os._exit(0)


main()
