"""A program that says in JSON which trio runs and tasks it has, and then stays as it is.

One line on stdout; it ends when its standard input is closed. What it says comes from trio's
documented functions and from Python's own coroutine attributes. With the argument `anyio` the
tasks of the first run are made by anyio.
"""

import inspect
import json
import os
import sys
import threading
import time
import types

import trio

release = threading.Event()
# What a task waits for, by its name; what is not here is not compared.
waits = {}
runs = []
parked = threading.Semaphore(0)
keep = []


async def leaf():
    await trio.sleep(3600)


async def middle(depth):
    if depth:
        await middle(depth - 1)
    else:
        await leaf()


async def numbers():
    for number in range(3):
        yield number
        await trio.sleep_forever()


async def iterates():
    async for number in numbers():
        pass


@types.coroutine
def old_style():
    yield from trio.sleep_forever().__await__()


class Thing:
    async def method(self, awaitable):
        await awaitable


async def call(function, *args):
    await function(*args)


async def takes(lock):
    async with lock:
        await trio.sleep_forever()


async def condition_wait(condition):
    async with condition:
        await condition.wait()


async def nested(depth, width):
    async with trio.open_nursery() as nursery:
        for index in range(width):
            if depth:
                nursery.start_soon(nested, depth - 1, width, name=f"nest-{depth}-{index}")
            else:
                nursery.start_soon(leaf, name=f"leaf-{index}")


async def started(task_status=trio.TASK_STATUS_IGNORED):
    task_status.started()
    await trio.sleep_forever()


async def will_not_end():
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


async def cancelled(function):
    with trio.CancelScope() as scope:
        scope.cancel()
        await function()


async def shielded():
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def with_deadline():
    with trio.move_on_after(7200):
        await trio.sleep_forever()


async def to_thread():
    await trio.to_thread.run_sync(release.wait)


async def scenario():
    async with trio.open_nursery() as nursery:

        def start(name, kind, function, *args):
            waits[name] = kind
            nursery.start_soon(call, function, *args, name=name)

        lock = trio.Lock()
        semaphore = trio.Semaphore(0)
        limiter = trio.CapacityLimiter(1)
        condition = trio.Condition()
        condition_held = trio.Condition()
        send, receive = trio.open_memory_channel(0)
        send_2, receive_2 = trio.open_memory_channel(0)
        left, right = trio.socket.socketpair()
        fd, other_fd = os.pipe()
        keep.extend([send, receive, send_2, receive_2, left, right, fd, other_fd])
        nursery.start_soon(leaf)
        nursery.start_soon(leaf, name="n\u00e4me \u4e16\u754c \U0001f40d")
        start("sleep", "sleep", trio.sleep, 3600)
        start("sleep-until", "sleep", trio.sleep_until, trio.current_time() + 3600)
        start("sleep-forever", "sleep", trio.sleep_forever)
        start("deep", "sleep", middle, 5)
        start("iterates", "sleep", iterates)
        start("old-style", "sleep", old_style)
        start("method", "sleep", Thing().method, trio.sleep_forever())
        start("event", "Event", trio.Event().wait)
        start("lock-holder", "sleep", takes, lock)
        await trio.lowlevel.checkpoint()
        while not lock.locked():
            await trio.lowlevel.checkpoint()
        start("lock-waiter", "Lock", takes, lock)
        start("semaphore", "Semaphore", semaphore.acquire)
        await limiter.acquire_on_behalf_of("nobody")
        start("limiter", "CapacityLimiter", limiter.acquire)
        start("condition", "Condition", condition_wait, condition)
        await condition_held.acquire()
        start("condition-lock", "Lock", condition_wait, condition_held)
        start("receive", "MemoryReceiveChannel.receive", receive.receive)
        start("send", "MemorySendChannel.send", send_2.send, 1)
        start("socket", "socket", left.recv, 10)
        start("fd", "fd", trio.lowlevel.wait_readable, fd)
        start("lot", "ParkingLot", trio.lowlevel.ParkingLot().park)
        start("thread", "thread", to_thread)
        start("nest", "Nursery", nested, 2, 2)
        start("deadline", "sleep", with_deadline)
        start("will-not-end", "wait_task_rescheduled", cancelled, will_not_end)
        start("shielded", "sleep", cancelled, shielded)
        await nursery.start(started, name="started")
        waits["started"] = "sleep"
        await settle()
        # Two leaves, sleep, sleep-until, deep, deadline, and the leaves of the nest.
        begin_account(deadlines=2 + 4 + 8)
        waits["this"] = "sleep"
        parked.release()
        await trio.sleep_forever()


async def anyio_leaf(event):
    await event.wait()


async def anyio_scenario():
    import anyio

    async with anyio.create_task_group() as group:
        event = anyio.Event()
        send, receive = anyio.create_memory_object_stream(0)
        keep.extend([send, receive])
        waits.update({"anyio-event": "Event", "anyio-receive": "Event", "anyio-sleep": "sleep"})
        group.start_soon(anyio_leaf, event, name="anyio-event")
        group.start_soon(receive.receive, name="anyio-receive")
        group.start_soon(anyio.sleep, 3600, name="anyio-sleep")
        await settle()
        begin_account(deadlines=1)
        parked.release()
        await anyio.sleep_forever()


async def settle():
    """Long enough for every task that can go on to have done so."""
    import trio.testing

    await trio.testing.wait_all_tasks_blocked(0.05)


async def blocker():
    """Runs, in the eyes of trio, and lets nothing else run."""
    async with trio.open_nursery() as nursery:
        for index in range(3):
            nursery.start_soon(leaf, name=f"waits-for-its-turn-{index}")
        waits["blocker"] = None
        begin_account(deadlines=0)
        parked.release()
        release.wait()


def begin_account(deadlines):
    runs.append(
        {
            "root": trio.lowlevel.current_root_task(),
            "current": trio.lowlevel.current_task(),
            "runner": trio._core._run.GLOBAL_RUN_CONTEXT.runner,
            "tid": threading.get_native_id(),
            "ident": threading.get_ident(),
            "runnable": trio.lowlevel.current_statistics().tasks_runnable,
            "deadlines": deadlines,
        }
    )


def qualname(awaitable, code):
    """As the code object has it; before 3.11 the coroutine knows more."""
    if hasattr(code, "co_qualname"):
        return code.co_qualname
    of_coroutine = awaitable.__qualname__
    return of_coroutine if of_coroutine.endswith("." + code.co_name) else code.co_name


def chain(awaitable):
    frames = []
    while awaitable is not None:
        for prefix in ("cr", "gi", "ag"):
            frame = getattr(awaitable, prefix + "_frame", None)
            if frame is not None:
                code = frame.f_code
                frames.append([qualname(awaitable, code), code.co_filename, frame.f_lineno])
                break
        following = None
        for name in ("cr_await", "gi_yieldfrom", "ag_await"):
            following = getattr(awaitable, name, None)
            if following is not None:
                break
        if following is not None and type(following).__name__ in (
            "async_generator_asend",
            "coroutine_wrapper",
        ):
            # They have no attribute for what they stand for.
            import gc

            (following,) = [
                found
                for found in gc.get_referents(following)
                if isinstance(found, (types.AsyncGeneratorType, types.CoroutineType))
            ]
        awaitable = following
    return frames


def stack(coroutine, ident):
    """Where a running coroutine is: its frame, and those that it has called."""
    frames = []
    frame = sys._current_frames()[ident]
    while frame is not None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        frames.insert(0, [name, code.co_filename, frame.f_lineno])
        if frame is coroutine.cr_frame:
            return frames
        frame = frame.f_back
    return None


def account():
    tasks = []
    for run in runs:
        open_tasks = [run["root"]]
        while open_tasks:
            task = open_tasks.pop()
            nursery = task.parent_nursery
            for child in task.child_nurseries:
                open_tasks.extend(child.child_tasks)
            runs_now = task is run["current"] and not run["parked"]
            ready = inspect.getcoroutinestate(task.coro) == inspect.CORO_CREATED
            tasks.append(
                {
                    "id": id(task),
                    "loop": id(run["runner"]),
                    "name": task.name,
                    "coroutine": task.coro.__qualname__,
                    "state": "running" if runs_now else "pending",
                    "chain": stack(task.coro, run["ident"]) if runs_now else chain(task.coro),
                    "parent": id(nursery.parent_task) if nursery is not None else None,
                    "cancelled": task.name == "will-not-end",
                    "waits": not (runs_now or ready),
                    "waits_for": waits.get(task.name),
                }
            )
    return {
        "runs": [
            {
                "id": id(run["runner"]),
                "tid": run["tid"],
                "ready": run["runnable"],
                "scheduled": run["deadlines"],
            }
            for run in runs
        ],
        "tasks": tasks,
        "trio": trio.__version__,
    }


def report(count):
    for _ in range(count):
        parked.acquire()
    # Long enough for every run to have gone to sleep.
    time.sleep(0.3)
    for run in runs:
        run["parked"] = run["current"].name != "__main__.blocker"
    print(json.dumps(account()), flush=True)
    sys.stdin.read()
    release.set()
    os._exit(0)


if sys.argv[1:] == ["anyio"]:
    threading.Thread(target=report, args=(1,), daemon=True).start()
    trio.run(anyio_scenario)
else:
    threading.Thread(target=report, args=(2,), daemon=True).start()
    threading.Thread(target=trio.run, args=(blocker,), daemon=True).start()
    trio.run(scenario)
