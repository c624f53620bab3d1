"""Programs that stand still, each for a reason of its own.

The argument says which. It tells its pid, and the members of what stands still as it names them.
"""

import asyncio
import contextlib
import multiprocessing
import os
import queue
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

from account import say


def run(threads, members=None):
    for name, function in threads:
        threading.Thread(target=function, name=name, daemon=True).start()
    ready(members or [name for name, _ in threads])
    while True:
        time.sleep(0.5)


def ready(members=(), **more):
    say(account="ready", pid=os.getpid(), members=list(members), **more)


def circle(count, make):
    locks = [make() for _ in range(count)]

    def member(index):
        with locks[index]:
            time.sleep(0.4)
            with locks[(index + 1) % count]:
                pass

    run([(f"member-{index}", lambda index=index: member(index)) for index in range(count)])


def two_rlocks():
    circle(2, threading.RLock)


def three_rlocks():
    circle(3, threading.RLock)


def two_locks():
    circle(2, threading.Lock)


def lock_and_join():
    lock = threading.Lock()

    def writer():
        time.sleep(0.3)
        with lock:
            pass

    def closer():
        thread = threading.Thread(target=writer, name="writer", daemon=True)
        thread.start()
        with lock:
            thread.join()

    run([("closer", closer)], ["closer", "writer"])


def relocking_handler():
    lock = threading.Lock()

    def handler(*_):
        with lock:
            pass

    signal.signal(signal.SIGUSR1, handler)
    ready(["MainThread"])
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    with lock:
        while True:
            time.sleep(0.1)


def lock_that_is_taken_twice():
    lock = threading.Lock()

    def helper():
        lock.acquire()
        lock.release()

    def caller():
        time.sleep(0.3)
        with lock:
            helper()

    run([("caller", caller)])


def own_pool():
    pool = ThreadPoolExecutor(2, thread_name_prefix="render")

    def outer():
        time.sleep(0.3)
        return pool.submit(time.sleep, 0).result()

    for _ in range(2):
        pool.submit(outer)
    ready(["render_0", "render_1"])
    while True:
        time.sleep(0.5)


async def take_both(one, other, limited):
    async with one:
        await asyncio.sleep(0.1)
        try:
            await limited(other)
        except asyncio.TimeoutError:
            pass


async def locked(lock):
    async with lock:
        pass


async def tick():
    while True:
        await asyncio.sleep(0.2)


def asyncio_locks():
    async def main():
        first, second = asyncio.Lock(), asyncio.Lock()

        async def take(one, other):
            async with one:
                await asyncio.sleep(0.2)
                async with other:
                    pass

        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(take(first, second)), loop.create_task(take(second, first))]
        for task, name in zip(tasks, ["forth", "back"]):
            task.set_name(name)
        ready(["forth", "back"])
        await tick()

    asyncio.run(main())


def tasks_that_await_each_other():
    async def main():
        tasks = {}

        async def wait_for(other):
            await asyncio.sleep(0.1)
            await tasks[other]

        for name, other in [("left", "right"), ("right", "left")]:
            tasks[name] = asyncio.get_running_loop().create_task(wait_for(other), name=name)
        ready(["left", "right"])
        await tick()

    asyncio.run(main())


def lock_across_fork(make=threading.RLock):
    lock = make()

    def hold():
        with lock:
            time.sleep(1000)

    threading.Thread(target=hold, name="holder", daemon=True).start()
    time.sleep(0.2)
    parent = os.getpid()
    if os.fork() == 0:
        with lock:
            pass
        os._exit(1)
    ready(["MainThread"], parent=parent)
    while True:
        time.sleep(0.5)


def plain_lock_across_fork():
    lock_across_fork(threading.Lock)


def lock_that_is_left_taken():
    lock = threading.Lock()
    lock.acquire()

    def wants():
        with lock:
            pass

    run([(f"wants-{index}", wants) for index in range(3)])


def workers_that_wait_for_one_queue():
    pool = ThreadPoolExecutor(3, thread_name_prefix="request")
    connections = queue.Queue()

    def checkout():
        return connections.get()

    for _ in range(4):
        pool.submit(checkout)
    pool.submit(connections.put, 1)
    ready(["3 workers of executor request"])
    while True:
        time.sleep(0.5)


def connections_of_sqlalchemy():
    """Each thread has a connection, and wants a second one."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import QueuePool

    engine = create_engine(
        "sqlite://",
        poolclass=QueuePool,
        pool_size=3,
        max_overflow=0,
        pool_timeout=600,
        connect_args={"check_same_thread": False},
    )

    def handler():
        first = engine.connect()
        time.sleep(0.3)
        second = engine.connect()
        second.close()
        first.close()

    run([(f"handler-{index}", handler) for index in range(5)], ["SQLAlchemy's connection pool"])


def group_of_anyio():
    """Tasks of a group want each other's locks; the scopes that they are in have no deadline."""
    import anyio

    async def main():
        first, second = asyncio.Lock(), asyncio.Lock()
        with anyio.CancelScope():
            async with anyio.create_task_group() as group:
                group.start_soon(take_both, first, second, locked, name="forth")
                group.start_soon(take_both, second, first, locked, name="back")
                ready(["forth", "back"])

    anyio.run(main)


def groups_of_anyio_with_a_time():
    """The time is that of a scope around the one of their group, or of a statement of who has entered that."""
    import anyio

    async def circle(body):
        first, second = asyncio.Lock(), asyncio.Lock()
        async with anyio.create_task_group() as group:
            group.start_soon(take_both, first, second, locked)
            group.start_soon(take_both, second, first, locked)
            await anyio.sleep(body)

    async def again_and_again(body):
        while True:
            with anyio.move_on_after(4):
                await circle(body)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(circle(body), 4)

    async def main():
        async with anyio.create_task_group() as group:
            for body in [0, 1000]:
                group.start_soon(again_and_again, body)
            ready()

    anyio.run(main)


def permits_of_anyio_with_a_time():
    """Healthy: permits that are had for long, and waits for another one, or for a lock out of order, that end."""
    import anyio

    async def main():
        longs, nested = anyio.Semaphore(2), anyio.Semaphore(2)
        locks = [anyio.Lock(), anyio.Lock()]

        async def works():
            while True:
                async with longs:
                    await anyio.sleep(4)

        async def wants_both(one, other):
            while True:
                with anyio.move_on_after(4):
                    async with one:
                        await anyio.sleep(0.1)
                        async with other:
                            pass

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(works)
            for _ in range(2):
                group.start_soon(wants_both, nested, nested)
            group.start_soon(wants_both, *locks)
            group.start_soon(wants_both, *locks[::-1])
            ready()

    anyio.run(main)


def queue_of_threads_of_anyio():
    import anyio
    from anyio import to_thread

    async def main():
        to_thread.current_default_thread_limiter().total_tokens = 3
        connections = queue.Queue()

        def checkout():
            return connections.get()

        async with anyio.create_task_group() as group:
            for function in [checkout] * 3 + [connections.get] * 3:
                group.start_soon(to_thread.run_sync, function)
            ready(["3 workers of executor AnyIO worker thread"])

    anyio.run(main)


def queue_of_threads_of_trio():
    import trio

    async def main():
        trio.to_thread.current_default_thread_limiter().total_tokens = 3
        connections = queue.Queue()

        def checkout():
            return connections.get()

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(trio.to_thread.run_sync, checkout)
            ready(["3 workers of executor Trio thread"])

    trio.run(main)


def nested_threads_of_anyio():
    """Each thread has a token, and waits for a task that wants another one."""
    import anyio
    from anyio import from_thread, to_thread

    async def inner():
        await to_thread.run_sync(time.sleep, 0)

    def outer():
        time.sleep(0.3)
        from_thread.run(inner)

    async def main():
        to_thread.current_default_thread_limiter().total_tokens = 3
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(to_thread.run_sync, outer)
            ready(["3 workers of executor AnyIO worker thread"])

    anyio.run(main)


def nested_threads_of_trio():
    import trio

    async def inner():
        await trio.to_thread.run_sync(time.sleep, 0)

    def outer():
        time.sleep(0.3)
        trio.from_thread.run(inner)

    async def main():
        trio.to_thread.current_default_thread_limiter().total_tokens = 3
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(trio.to_thread.run_sync, outer)
            ready(["3 workers of executor Trio thread"])

    trio.run(main)


def tokens_of_anyio():
    """Each task has a token, and waits for a task of a group that wants another one."""
    import anyio

    async def main():
        limiter = anyio.CapacityLimiter(2)

        async def inner():
            async with limiter:
                pass

        async def outer():
            async with limiter:
                await anyio.sleep(0.3)
                async with anyio.create_task_group() as group:
                    group.start_soon(inner)

        async with anyio.create_task_group() as group:
            for name in ["first", "second"]:
                group.start_soon(outer, name=name)
            ready(["CapacityLimiter", "first", "second"])
            await tick()

    anyio.run(main)


def tokens_of_trio():
    """Each task has a token, and waits for a task of a nursery that wants another one."""
    import trio

    async def main():
        limiter = trio.CapacityLimiter(2)

        async def inner():
            async with limiter:
                pass

        async def first_or_second():
            async with limiter:
                await trio.sleep(0.3)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(inner)

        async with trio.open_nursery() as nursery:
            for name in ["first", "second"]:
                nursery.start_soon(first_or_second, name=name)
            ready(["CapacityLimiter", "first", "second"])
            while True:
                await trio.sleep(0.2)

    trio.run(main)


def locks_of_trio():
    import trio

    async def main():
        first, second = trio.Lock(), trio.StrictFIFOLock()

        async def take(one, other):
            async with one:
                await trio.sleep(0.2)
                await other.acquire()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, first, second, name="forth")
            nursery.start_soon(take, second, first, name="back")
            nursery.start_soon(trio.sleep_forever)
            ready(["forth", "back", "trio.Lock"])

    trio.run(main)


def locks_of_trio_with_a_time():
    """Healthy: a lock that is had for long, one that is wanted out of order for a time."""
    import trio

    async def main():
        first, second, long = trio.Lock(), trio.Lock(), trio.Lock()

        async def take(one, other):
            while True:
                with trio.move_on_after(4):
                    async with one:
                        await trio.sleep(0.1)
                        async with other:
                            pass

        async def works():
            while True:
                async with long:
                    await trio.sleep(4)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, first, second)
            nursery.start_soon(take, second, first)
            for _ in range(3):
                nursery.start_soon(works)
            ready()

    trio.run(main)


def tokens_of_trio_with_a_time():
    """Healthy: waits for a token that a deadline ends, of a scope around the one that they are in; a nursery of which
    another task wants one; tokens that are had for long."""
    import trio

    async def main():
        limiter, others, longs = (trio.CapacityLimiter(2) for _ in range(3))

        async def inner(limiter):
            async with limiter:
                pass

        async def with_a_time():
            with trio.move_on_after(4):
                async with trio.open_nursery() as outer:
                    for _ in range(2):
                        outer.start_soon(outer_of, limiter)
                    await trio.sleep_forever()

        async def outer_of(limiter):
            async with limiter:
                await trio.sleep(0.1)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(inner, limiter)

        async def in_another_nursery():
            async with trio.open_nursery() as wants:
                async with others:
                    await trio.sleep(0.1)
                    wants.start_soon(inner, others)
                    async with trio.open_nursery() as works:
                        works.start_soon(trio.sleep, 4)

        async def works():
            async with longs:
                await trio.sleep(4)

        async def again_and_again(function):
            while True:
                await function()

        async with trio.open_nursery() as nursery:
            functions = [with_a_time] + [in_another_nursery] * 2 + [works] * 4
            for function in functions:
                nursery.start_soon(again_and_again, function)
            ready()

    trio.run(main)


def semaphore_of_threads(make=threading.Semaphore):
    semaphore = make(2)

    def handler():
        with semaphore:
            time.sleep(0.3)
            with semaphore:
                pass

    run([(f"handler-{index}", handler) for index in range(2)], ["Semaphore", "handler-0", "handler-1"])


def connections_in_a_queue():
    """Threads that have one of a queue's connections want a second one, and others a first one."""
    connections = queue.Queue(2)
    for index in range(2):
        connections.put(index)

    @contextlib.contextmanager
    def connection():
        one = connections.get()
        try:
            yield one
        finally:
            connections.put(one)

    def handler():
        with connection():
            time.sleep(0.3)
            with connection():
                pass

    run([(f"handler-{index}", handler) for index in range(4)], ["Queue", "handler-0", "handler-1"])


def connections_in_a_queue_of_tasks():
    """As of threads; only the manager's generator has what a task has."""

    async def main():
        connections = asyncio.Queue(2)
        for index in range(2):
            connections.put_nowait(index)

        @contextlib.asynccontextmanager
        async def connection():
            one = await connections.get()
            try:
                yield one
            finally:
                connections.put_nowait(one)

        async def handler():
            async with connection():
                await asyncio.sleep(0.3)
                async with connection():
                    pass

        await named(handler, ["first", "second", "behind"], "asyncio.Queue")

    asyncio.run(main())


class Pool:
    """Of connections in a queue, without a context manager."""

    def __init__(self, make, nap):
        self.connections = make(2)
        self.nap = nap
        for index in range(2):
            self.connections.put_nowait(index)

    def use(self):
        one = self.connections.get()
        try:
            self.nap(0.3)
            self.use_another()
        finally:
            self.connections.put(one)

    def use_another(self):
        another = self.connections.get(True)
        try:
            self.nap(0.3)
        finally:
            self.connections.put_nowait(another)

    async def use_in_a_task(self):
        one = await self.connections.get()
        try:
            await self.nap(0.3)
            with contextlib.suppress(KeyError):
                another = await self.connections.get()
                self.connections.put_nowait(another)
        finally:
            self.connections.put_nowait(one)


def connections_in_a_plain_queue():
    pool = Pool(queue.LifoQueue, time.sleep)
    names = ["handler-0", "handler-1", "handler-2"]
    run([(name, pool.use) for name in names], ["Queue", "handler-0", "handler-1"])


def connections_in_a_plain_queue_of_tasks():
    async def main():
        await named(Pool(asyncio.Queue, asyncio.sleep).use_in_a_task, ["first", "second", "behind"], "asyncio.Queue")

    asyncio.run(main())


def semaphore_in_a_manager():
    """The statement that has the permit is in a generator, which another one is around."""
    semaphore = threading.Semaphore(2)

    @contextlib.contextmanager
    def limited():
        with semaphore:
            yield

    @contextlib.contextmanager
    def connection():
        with limited():
            yield

    def handler():
        with connection():
            time.sleep(0.3)
            with connection():
                pass

    run([(f"handler-{index}", handler) for index in range(3)], ["Semaphore", "handler-0", "handler-1"])


def semaphore_in_a_manager_of_tasks():
    async def main():
        semaphore = asyncio.Semaphore(2)

        @contextlib.asynccontextmanager
        async def limited():
            async with semaphore:
                yield

        @contextlib.asynccontextmanager
        async def connection():
            async with limited():
                yield

        async def handler():
            async with connection():
                await asyncio.sleep(0.3)
                async with connection():
                    pass

        await named(handler, ["first", "second", "behind"], "asyncio.Semaphore")

    asyncio.run(main())


async def named(handler, names, pool):
    """Tasks with these names, of which all but the last are members."""
    tasks = [asyncio.ensure_future(handler()) for _ in names]
    for task, name in zip(tasks, names):
        task.set_name(name)
    ready([pool] + names[:-1])
    await tick()


def bounded_semaphore_of_threads():
    semaphore_of_threads(threading.BoundedSemaphore)


def semaphore_of_tasks():
    async def main():
        semaphore = asyncio.Semaphore(2)

        async def handler():
            async with semaphore:
                await asyncio.sleep(0.2)
                async with semaphore:
                    pass

        await named(handler, ["first", "second", "behind"], "asyncio.Semaphore")

    asyncio.run(main())


def semaphore_of_anyio():
    import anyio

    async def main():
        semaphore = anyio.Semaphore(2)

        async def handler():
            async with semaphore:
                await anyio.sleep(0.2)
                async with semaphore:
                    pass

        async with anyio.create_task_group() as group:
            for name in ["first", "second", "behind"]:
                group.start_soon(handler, name=name)
            ready(["anyio.Semaphore", "first", "second"])
            await tick()

    anyio.run(main)


def long_calls(call):
    """One thread calls what keeps the GIL for long; others would compute."""

    def hog():
        while True:
            call()

    def victim():
        while True:
            sum(range(1000))

    for index in range(3):
        threading.Thread(target=victim, name=f"victim-{index}", daemon=True).start()
    threading.Thread(target=hog, name="hog", daemon=True).start()
    ready(["hog"])
    while True:
        time.sleep(0.5)


def backtracking_pattern():
    pattern = re.compile("(a+)+$")
    long_calls(lambda: pattern.match("a" * 23 + "b"))


def large_power():
    # How long it takes depends on the machine, and on the version.
    exponent = 100_000
    while True:
        begin = time.monotonic()
        pow(3, exponent)
        if time.monotonic() - begin > 0.2:
            break
        exponent *= 2
    long_calls(lambda: pow(3, exponent))


def sleeping_call_of_c():
    import ctypes

    library = ctypes.PyDLL(None)
    long_calls(lambda: library.usleep(300_000))


def convoy_for_the_gil():
    def compute():
        while True:
            sum(range(1000))

    run([(f"computes-{index}", compute) for index in range(4)], [])


def convoy_for_a_lock():
    """Nobody stands still, but each waits for the others most of the time."""
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                time.sleep(0.02)

    run([(f"works-{index}", work) for index in range(5)], ["threads stand in line"])


def full_pool_of_threads():
    """Work comes in for good, more than its threads do."""
    pool = ThreadPool(2)

    def request():
        time.sleep(0.4)

    ready(["all 2 workers", "request"])
    while True:
        pool.apply_async(request)
        time.sleep(0.1)


def killed_pool_worker():
    pool = multiprocessing.Pool(2)
    threading.Thread(target=pool.map, args=(time.sleep, [4] * 4), daemon=True).start()
    ready(["PoolWorker-"])
    time.sleep(6)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    while True:
        time.sleep(0.5)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
