"""asyncio tasks of all kinds, parked; accounts: tasks, await chain.

With the argument `uvloop` or `anyio`: tasks on a loop of that kind, or made by anyio, as one account
named by it.
"""

import asyncio
import contextlib
import functools
import socket
import sys
import threading
import types

import truth

HAS_GROUPS = hasattr(asyncio, "TaskGroup")
# Done tasks are still in asyncio's own set of all tasks; later releases take them out.
DONE_ARE_LISTED = sys.version_info < (3, 14)
release = threading.Event()
kept = []
hidden = []
# What is known of a task besides what it says itself, by task.
facts = {}
# Pairs of a task that waits, and one that it waits for; the same where that is told nowhere but in
# the code that waits.
waiters = []
untold = []
# Loop, native id of its thread, ident, kind.
loops = []
running = set()


async def leaf():
    await asyncio.sleep(36000)


async def middle(depth):
    if depth:
        await middle(depth - 1)
    else:
        await leaf()


class Service:
    async def method(self):
        async with self.context():
            await leaf()

    @contextlib.asynccontextmanager
    async def context(self):
        yield await self.entered()

    async def entered(self):
        await asyncio.get_running_loop().create_future()

    def __await__(self):
        return (yield from asyncio.get_running_loop().create_future())

    async def __aenter__(self):
        await leaf()

    async def __aexit__(self, *_):
        pass


async def numbers():
    for number in range(3):
        yield number
        await leaf()


async def nested_numbers():
    async for number in numbers():
        yield number


async def iterates():
    async for _ in nested_numbers():
        pass


async def comprehends():
    return [number async for number in nested_numbers()]


async def sends_to_generator():
    generator = numbers()
    await generator.asend(None)
    await generator.asend(None)


async def iterates_with_anext():
    generator = numbers()
    await anext(generator)
    await anext(generator, None)


@types.coroutine
def old_style(future):
    yield from future


async def awaits_old_style():
    await old_style(asyncio.get_running_loop().create_future())


async def awaits_wrapper():
    class Wrapped:
        def __await__(self):
            return leaf().__await__()

    await Wrapped()


async def awaits_object():
    await Service()


async def enters():
    async with Service():
        pass


async def awaits(awaitable):
    await awaitable


async def holds(lock):
    async with lock:
        await leaf()


async def conditions(condition):
    async with condition:
        await condition.wait()


async def gathers():
    names = [asyncio.ensure_future(leaf()), asyncio.ensure_future(middle(2))]
    waited(*names)
    await asyncio.gather(*names)


async def waits_for_all():
    tasks = [asyncio.ensure_future(leaf()) for _ in range(3)]
    waited(*tasks)
    await asyncio.wait(tasks)


async def waits_for():
    await asyncio.wait_for(may_be_a_task(asyncio.current_task()), 36000)


async def may_be_a_task(waiter):
    if asyncio.current_task() is not waiter:
        waiters.append((waiter, asyncio.current_task()))
    await leaf()


async def waits_for_task():
    task = asyncio.ensure_future(leaf())
    waited(task)
    await asyncio.wait_for(task, 36000)


async def shields():
    task = asyncio.ensure_future(leaf())
    waited(task)
    await asyncio.shield(task)


async def completes():
    tasks = [asyncio.ensure_future(leaf()) for _ in range(2)]
    # Before 3.14 it is a callback's closure that knows.
    pairs = waiters if sys.version_info >= (3, 14) else untold
    pairs.extend((asyncio.current_task(), task) for task in tasks)
    for first in asyncio.as_completed(tasks):
        await first


async def groups():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(leaf(), name="grouped"), group.create_task(middle(1))]
        waited(*tasks)


async def times_out():
    async with asyncio.timeout(36000):
        await leaf()


async def runs_in_executor():
    await asyncio.get_running_loop().run_in_executor(None, release.wait)


async def to_thread():
    await asyncio.to_thread(release.wait)


async def reads_socket():
    ours, theirs = socket.socketpair()
    kept.extend([ours, theirs])
    ours.setblocking(False)
    await asyncio.get_running_loop().sock_recv(ours, 10)


async def does_not_end():
    while True:
        try:
            await leaf()
        except asyncio.CancelledError:
            pass


async def cleans_up():
    try:
        await leaf()
    except asyncio.CancelledError:
        with contextlib.suppress(ValueError):
            await middle(1)


async def fails():
    raise LookupError("on purpose")


async def returns():
    return 1


def make_closure():
    async def inner():
        await leaf()

    return inner


class Handler:
    async def __call__(self):
        await leaf()


class NamedTask(asyncio.Task):
    """A subclass of the C task."""


PythonTask = asyncio.tasks._PyTask


class OwnPythonTask(PythonTask):
    """A subclass of the one that is written in Python."""


def waited(*tasks):
    """The running task waits for these."""
    current = asyncio.current_task()
    pairs = waiters
    if current is None:
        # From 3.14 on, tasks that are written in Python are apart from the others.
        current = asyncio.tasks._py_current_task()
        pairs = untold
    pairs.extend((current, task) for task in tasks)


def make(name, coroutine, kind=None, of=None, **more):
    """A task; what it waits for, as far as that is told."""
    task = asyncio.ensure_future(coroutine)
    if name is not None:
        task.set_name(name)
    return note(task, kind, of, **more)


def note(task, kind=None, of=None, **more):
    kept.append(task)
    facts[task] = more
    if kind is not None:
        facts[task]["waits_for"] = {"kind": kind}
        if of is not None:
            facts[task]["waits_for"]["object"] = hex(id(of))
            kept.append(of)
    return task


async def make_tasks():
    loop = asyncio.get_running_loop()
    slept = make(None, leaf(), "sleep")
    make("n\u00e4me \u4e16\u754c \U0001f40d", leaf(), "sleep")
    make("", leaf())
    make("long " + "x" * 300, leaf())
    make("deep", middle(30), "sleep")
    make("method", Service().method(), "Future")
    make("iterates", iterates(), "sleep")
    make("comprehends", comprehends())
    make("asend", sends_to_generator())
    if sys.version_info >= (3, 10):
        make("anext", iterates_with_anext())
    make("old-style", awaits_old_style(), "Future")
    make("wrapper", awaits_wrapper(), "sleep")
    make("object", awaits_object(), "Future")
    make("enters", enters(), "sleep")
    make("closure", make_closure()())
    make("callable", Handler()())
    make("partial", functools.partial(middle, 2)())
    for name, queue in [("get", asyncio.Queue()), ("priority", asyncio.PriorityQueue())]:
        make(name, queue.get(), type(queue).__name__, queue)
    full = asyncio.Queue(1)
    full.put_nowait(1)
    make("put", full.put(2), "Queue", full)
    make("join", full.join(), "Event", full._finished)
    lock = asyncio.Lock()
    make("lock-holder", holds(lock), "sleep")
    await asyncio.sleep(0)
    make("lock-waiter", holds(lock), "Lock", lock)
    make("lock-waiter-2", holds(lock), "Lock", lock)
    semaphore = asyncio.Semaphore(0)
    make("semaphore", semaphore.acquire(), "Semaphore", semaphore)
    event = asyncio.Event()
    make("event", event.wait(), "Event", event)
    condition = asyncio.Condition()
    make("condition", conditions(condition), "Condition", condition)
    future = loop.create_future()
    make("future", awaits(future), "Future", future)
    make("gather", gathers())
    make("wait", waits_for_all(), "wait")
    make("wait-for", waits_for())
    make("wait-for-task", waits_for_task())
    make("shield", shields())
    make("as-completed", completes())
    make("executor", runs_in_executor(), "executor")
    if hasattr(asyncio, "to_thread"):
        make("to-thread", to_thread(), "executor")
    if HAS_GROUPS:
        make("group", groups(), "TaskGroup")
        make("timeout", times_out(), "sleep")
    # uvloop has a future of its own kind for that.
    in_asyncio = isinstance(loop, asyncio.SelectorEventLoop)
    make("socket", reads_socket(), "socket" if in_asyncio else None)
    waiting = make("awaits-task", awaits(slept), "Task", slept)
    waiters.append((waiting, slept))
    again = make("awaits-it-too", awaits(slept), "Task", slept)
    waiters.append((again, slept))
    note(NamedTask(middle(1), loop=loop, name="subclass"))
    note(PythonTask(middle(1), loop=loop, name="python"))
    note(OwnPythonTask(gathers(), loop=loop, name="python-subclass"))
    if sys.version_info >= (3, 12):
        note(asyncio.Task(middle(1), loop=loop, name="eager", eager_start=True), "sleep")
        # It was done before it could be registered anywhere.
        hidden.append(asyncio.Task(returns(), loop=loop, name="eager-done", eager_start=True))
    await make_cancelled()
    await make_done()


async def make_cancelled():
    stubborn = make("stubborn", does_not_end())
    cleaning = make("cleans-up", cleans_up())
    await asyncio.sleep(0.01)
    stubborn.cancel()
    cleaning.cancel()
    await asyncio.sleep(0.01)
    # Asked to end from another thread while the loop sleeps: it has not been told yet.
    facts[make("to-be-cancelled", leaf())]["late"] = True


async def make_done():
    make("failed", fails(), exception="LookupError", retrieved=False)
    retrieved = make("failed-retrieved", fails(), exception="LookupError", retrieved=True)
    make("returned", returns(), exception=None)
    ended = make("cancelled", leaf())
    await asyncio.sleep(0.01)
    ended.cancel()
    await asyncio.sleep(0.01)
    assert isinstance(retrieved.exception(), LookupError)


def join_loop(kind):
    loop = asyncio.get_running_loop()
    loops.append((loop, threading.get_native_id(), threading.get_ident(), kind))
    return loop


async def scenario(kind, then):
    """The first task of a loop that runs and sleeps."""
    loop = join_loop(kind)
    loop.set_exception_handler(lambda *_: None)
    loop.call_later(72000, print)
    await make_tasks()
    loop.slow_callback_duration = 0.25
    note(asyncio.current_task(), "Event")
    then()
    await asyncio.Event().wait()


async def blocks(ready):
    """A task that has the loop's thread."""
    join_loop("asyncio").set_debug(True)
    make("beside", leaf(), "sleep")
    await asyncio.sleep(0.01)
    running.add(note(asyncio.current_task()))
    ready.release()
    await deeper()


async def deeper():
    release.wait()


async def is_left(ready):
    """Its loop stops while it waits."""
    note(asyncio.ensure_future(leaf()))
    await asyncio.sleep(0.01)
    ready.release()


def start_loops():
    ready = threading.Semaphore(0)

    def stopped():
        loop = asyncio.new_event_loop()
        kept.append(loop)
        loop.run_until_complete(is_left(ready))
        ready.release()
        release.wait()

    for target in (lambda: asyncio.run(blocks(ready)), stopped):
        threading.Thread(target=target, daemon=True).start()
    for _ in range(3):
        ready.acquire()


def describe(task, ident):
    coroutine = task.get_coro()
    state = "running" if task in running else "done" if task.done() else "pending"
    described = {
        "id": hex(id(task)),
        "name": task.get_name(),
        "coroutine": coroutine.__qualname__,
        "state": state,
    }
    if state != "done":
        described["awaited_by"] = sorted({hex(id(by)) for by, of in waiters if of is task})
        more = {hex(id(by)) for by, of in untold if of is task}
        if more:
            some = described["awaited_by"]
            described["awaited_by"] = {"any": [some, sorted(more.union(some))]}
        described["exception"] = described["retrieved"] = None
    if hasattr(task, "cancelling") and state != "done":
        described["cancel_requested"] = task.cancelling() > 0
    described.update(facts.get(task, {}))
    described.pop("late", None)
    if state == "running":
        chain = truth.running_chain(coroutine, ident)
    else:
        chain = [] if task.done() else truth.await_chain(coroutine)
    return described, {"id": described["id"], "name": described["name"], "awaiting": chain}


def all_tasks(loop):
    """asyncio's own answer; it leaves out done ones, and (some releases) those written in Python."""
    found = set(asyncio.all_tasks(loop))
    for task in kept:
        if not isinstance(task, (asyncio.Task, PythonTask)) or task.get_loop() is not loop:
            continue
        if not task.done() or DONE_ARE_LISTED:
            found.add(task)
    return found


def account():
    tasks_cell, chains_cell = [], []
    for loop, tid, ident, kind in loops:
        both = [describe(task, ident) for task in all_tasks(loop)]
        tasks_cell.append(truth.loop_account(loop, tid, kind, [task for task, _ in both]))
        chains_cell.append({"tid": tid, "tasks": [chain for _, chain in both]})
    for loop in [loop for loop in kept if isinstance(loop, asyncio.AbstractEventLoop)]:
        both = [describe(task, None) for task in all_tasks(loop)]
        if both:
            tasks_cell.append({"tid": None, "running": False, "tasks": [t for t, _ in both]})
            chains_cell.append({"tid": None, "tasks": [chain for _, chain in both]})
    return {"tasks": {"loops": tasks_cell}, "await chain": {"loops": chains_cell}}


def merged(cell):
    """Both accounts as one, under another name."""
    both = account()
    loops = both["tasks"]["loops"]
    for one, chains in zip(loops, both["await chain"]["loops"]):
        for task, chain in zip(one["tasks"], chains["tasks"]):
            task.update(chain)
    return {cell: {"loops": loops}}


def cancel_late():
    for task, known in facts.items():
        if known.get("late") and not task.done():
            task.cancel()


async def with_anyio(then):
    import anyio

    join_loop("asyncio")
    event = anyio.Event()
    lock = anyio.Lock()
    send, receive = anyio.create_memory_object_stream(0)
    kept.extend([send, receive])

    def start(group, function, *args, name=None):
        """Some releases of anyio tell asyncio that the group's task waits for it."""
        host = asyncio.current_task()

        async def child():
            untold.append((host, asyncio.current_task()))
            await function(*args)

        group.start_soon(child, name=name)

    async def nested(depth):
        async with anyio.create_task_group() as group:
            if depth:
                start(group, nested, depth - 1, name="nested-%d" % depth)
            start(group, anyio.sleep, 36000)

    async def takes():
        async with lock:
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        start(group, event.wait, name="event")
        start(group, takes, name="lock-holder")
        start(group, takes, name="lock-waiter")
        start(group, receive.receive, name="receive")
        start(group, nested, 3, name="nested")
        start(group, anyio.to_thread.run_sync, release.wait, name="thread")
        await anyio.sleep(0.05)
        then()
        await anyio.sleep_forever()


def main():
    mode = sys.argv[1] if len(sys.argv) > 1 else "asyncio"
    if mode == "asyncio":
        start_loops()
        asyncio.run(scenario("asyncio", lambda: truth.tell_beside(account)))
        return
    package = __import__(mode)
    tell = functools.partial(truth.tell_beside, functools.partial(merged, mode))
    if mode == "uvloop":
        loop = package.new_event_loop()
        loop.run_until_complete(scenario("uvloop", tell))
    else:
        package.run(with_anyio, tell)


main()
