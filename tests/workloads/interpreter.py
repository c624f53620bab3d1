"""A program that says in JSON what threads, loops and tasks it has, and then stays as it is.

One line on stdout, printed by a thread that is itself part of the account; it ends when its
standard input is closed.
"""

import asyncio
import concurrent.futures
import functools
import json
import queue
import resource
import sys
import threading
import time
import types

STACK_BYTES = 512 * 1024
release = threading.Event()
started = []


def plain(number):
    started.append(number)
    release.wait()


class Worker:
    def method(self):
        release.wait()

    def __call__(self):
        release.wait()


class OwnRun(threading.Thread):
    """Does not use a target."""

    def __init__(self):
        super().__init__(name="own-run", daemon=True)

    def run(self):
        release.wait()


class InheritsRun(threading.Thread):
    """Has a target, its class has an attribute dict of its own."""

    extra = "x"


def nested_target():
    def inner():
        release.wait()

    return inner


async def leaf():
    await asyncio.sleep(3600)


async def middle(depth):
    if depth:
        await middle(depth - 1)
    else:
        await leaf()


async def numbers():
    for number in range(3):
        yield number
        await asyncio.sleep(3600)


async def iterates():
    async for number in numbers():
        pass


@types.coroutine
def old_style(future):
    yield from future


async def awaits_old_style():
    await old_style(asyncio.get_running_loop().create_future())


class Awaitable:
    def __await__(self):
        return (yield from asyncio.get_running_loop().create_future())


async def awaits_object():
    await Awaitable()


async def gets(queue):
    await queue.get()


async def gathers():
    await asyncio.gather(leaf(), middle(1))


async def waits_for():
    await asyncio.wait_for(leaf(), 7200)


async def takes_lock(lock):
    async with lock:
        await asyncio.sleep(3600)


async def groups():
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf(), name="in-group")
        group.create_task(
            middle(
                2,
            ),
            name="in-group-2",
        )


async def to_thread():
    await asyncio.to_thread(release.wait)


async def awaits_task(task):
    await task


async def many_locals():
    a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p = range(16)
    q, r, s, t, u, v, w, x, y, z = range(10)
    aa, bb, cc, dd, ee, ff, gg, hh = range(8)
    return (a, b, c, d, [e, f, g, (h, i, j, k, l, await leaf())], m, n, o, p, q, r, s, t, u, v)


async def done():
    return 1


class NamedTask(asyncio.Task):
    """A subclass of the C task."""


python_task = asyncio.tasks._PyTask
kept = []


async def scenario():
    loop = asyncio.get_running_loop()
    make = loop.create_task
    lock = asyncio.Lock()
    kept.append(lock)
    kept.extend(
        [
            make(leaf()),
            make(leaf(), name="named"),
            make(leaf(), name="n\u00e4me \u4e16\u754c \U0001f40d"),
            make(leaf(), name="long " + "x" * 2000),
            make(middle(5), name="deep"),
            make(iterates(), name="iterates"),
            make(awaits_old_style(), name="old-style"),
            make(awaits_object(), name="object"),
            make(gets(asyncio.Queue()), name="queue"),
            make(gathers(), name="gathers"),
            make(waits_for(), name="wait-for"),
            make(takes_lock(lock), name="lock-holder"),
            make(takes_lock(lock), name="lock-waiter"),
            make(to_thread(), name="to-thread"),
            make(many_locals(), name="many-locals"),
            make(groups(), name="groups"),
            NamedTask(leaf(), loop=loop, name="subclass"),
            python_task(middle(1), loop=loop, name="python-task"),
        ]
    )
    kept.append(make(awaits_task(kept[2]), name="awaits-task"))
    if sys.version_info >= (3, 12):
        kept.append(asyncio.Task(middle(1), loop=loop, name="eager", eager_start=True))
    finished = make(done(), name="finished")
    kept.append(finished)
    await finished
    loop.set_debug(False)
    loop.slow_callback_duration = 0.25
    loop.call_later(7200, print)
    ready.release()
    await asyncio.Event().wait()


async def blocker():
    loop = asyncio.get_running_loop()
    kept.append(loop.create_task(leaf(), name="beside-the-blocker"))
    loop.set_debug(True)
    await asyncio.sleep(0.01)
    ready.release()
    release.wait()


def second_loop():
    asyncio.run(blocker())


ready = threading.Semaphore(0)


def chain(awaitable):
    frames = []
    while awaitable is not None:
        for prefix in ("cr", "gi", "ag"):
            frame = getattr(awaitable, prefix + "_frame", None)
            if frame is not None:
                code = frame.f_code
                name = getattr(code, "co_qualname", code.co_name)
                frames.append([name, code.co_filename, frame.f_lineno])
                break
        following = None
        for name in ("cr_await", "gi_yieldfrom", "ag_await"):
            following = getattr(awaitable, name, None)
            if following is not None:
                break
        if following is not None and type(following).__name__ == "async_generator_asend":
            # It has no attribute for its generator.
            import gc

            (following,) = [
                found
                for found in gc.get_referents(following)
                if isinstance(found, types.AsyncGeneratorType)
            ]
        awaitable = following
    return frames


def stack_of(task):
    """Where a running task is: the frames of its thread from its coroutine's own on."""
    own = task.get_coro().cr_frame
    frame = sys._current_frames()[task.get_loop()._thread_id]
    frames = []
    while True:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        frames.insert(0, [name, code.co_filename, frame.f_lineno])
        if frame is own:
            return frames
        frame = frame.f_back


def name_of(called):
    """`module.qualname` of something that can be called, wrappers taken off."""
    while True:
        if isinstance(called, functools.partial):
            called = called.func
        elif isinstance(called, types.MethodType):
            called = called.__func__
        else:
            break
    if isinstance(called, types.FunctionType):
        return f"{called.__module__}.{called.__qualname__}"
    if isinstance(called, types.BuiltinFunctionType):
        if called.__module__ is not None:
            return f"{called.__module__}.{called.__name__}"
        owner = type(called.__self__)
        return f"{owner.__module__}.{owner.__qualname__}.{called.__name__}"
    return f"{type(called).__module__}.{type(called).__qualname__}.__call__"


def entry(thread):
    if thread is threading.main_thread():
        return None
    if type(thread).run is not threading.Thread.run:
        return name_of(type(thread).run)
    return name_of(thread._target)


def account(loops):
    all_threads = []
    for thread in threading.enumerate():
        all_threads.append(
            {
                "ident": thread.ident,
                "native_id": thread.native_id,
                "name": thread.name,
                "daemon": thread.daemon,
                "main": thread is threading.main_thread(),
                "entry": entry(thread),
                "stack_bytes": STACK_BYTES if thread.name == "plain" else None,
            }
        )
    tasks = []
    for loop in loops:
        running = asyncio.current_task(loop)
        # From 3.14 on it leaves out tasks that are not the C module's.
        pending = asyncio.all_tasks(loop) | {
            task for task in kept if isinstance(task, python_task) and not task.done()
        }
        for task in pending:
            if task.get_loop() is not loop:
                continue
            tasks.append(
                {
                    "id": id(task),
                    "loop": id(loop),
                    "name": task.get_name(),
                    "coroutine": task.get_coro().__qualname__,
                    "running": task is running,
                    "chain": stack_of(task) if task is running else chain(task.get_coro()),
                }
            )
    return {
        "version": sys.version.split()[0],
        "threads": all_threads,
        "stack_limit": resource.getrlimit(resource.RLIMIT_STACK)[0],
        "loops": [
            {
                "id": id(loop),
                "ident": loop._thread_id,
                "ready": len(loop._ready),
                "scheduled": len(loop._scheduled),
                "debug": loop.get_debug(),
                "stall_threshold_ns": int(loop.slow_callback_duration * 1e9),
            }
            for loop in loops
        ],
        "tasks": tasks,
        "finished": [
            {"id": id(task), "name": task.get_name(), "coroutine": task.get_coro().__qualname__}
            for task in kept
            if isinstance(task, asyncio.Task) and task.done()
        ],
    }


def report(main_loop):
    for _ in range(2):
        ready.acquire()
    pool.submit(release.wait)
    pool.submit(release.wait)
    # Long enough for every loop and thread to have gone to sleep.
    time.sleep(0.3)
    loops = [main_loop] + [task.get_loop() for task in kept if isinstance(task, asyncio.Task)]
    loops = list(dict.fromkeys(loops))
    print(json.dumps(account(loops)), flush=True)
    sys.stdin.read()
    import os

    os._exit(0)


pool = concurrent.futures.ThreadPoolExecutor(max_workers=2, thread_name_prefix="pool")


def main():
    threading.stack_size(STACK_BYTES)
    threading.Thread(target=plain, args=(1,), name="plain").start()
    threading.stack_size(0)
    threading.Thread(target=plain, args=(2,), name="n\u00e4me \u4e16", daemon=True).start()
    threading.Thread(target=Worker().method, name="method").start()
    threading.Thread(target=Worker(), name="callable").start()
    threading.Thread(target=functools.partial(plain, 3), name="partial").start()
    threading.Thread(target=release.wait, name="event-method").start()
    threading.Thread(target=time.sleep, args=(3600,), name="builtin").start()
    threading.Thread(target=queue.SimpleQueue().get, name="builtin-method").start()
    threading.Thread(target=nested_target(), name="nested").start()
    OwnRun().start()
    InheritsRun(target=plain, args=(4,), name="inherits").start()
    timer = threading.Timer(3600, print)
    timer.name = "timer"
    timer.start()
    threading.Thread(target=second_loop, name="second-loop").start()

    async def body():
        threading.Thread(
            target=report, args=(asyncio.get_running_loop(),), name="reporter"
        ).start()
        await scenario()

    asyncio.run(body())


if __name__ == "__main__":
    main()
