"""Programs that only wait for work, or for one another in turn: nobody in these stands still.

The argument says which. It tells its pid.
"""

import asyncio
import contextlib
import functools
import multiprocessing
import os
import queue
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

from stuck import circle, locked, ready, take_both, tick


def busy_beside():
    """What is idle stays so beside some work."""
    while True:
        sum(range(20_000))
        time.sleep(0.02)


def idle_thread_pool():
    pool = ThreadPoolExecutor(4)
    list(pool.map(time.sleep, [0.05] * 8))
    ready()
    busy_beside()


def idle_process_pool():
    pool = ProcessPoolExecutor(3)
    list(pool.map(abs, range(9)))
    ready()
    busy_beside()


def idle_multiprocessing_pool():
    pool = multiprocessing.Pool(4)
    pool.map(abs, range(9))
    ready()
    busy_beside()


def idle_pool_of_threads():
    pool = ThreadPool(6)
    pool.map(abs, range(9))
    ready()
    busy_beside()


def signals_by_semaphore():
    semaphore = threading.Semaphore(0)

    def worker():
        while True:
            semaphore.acquire()

    for index in range(6):
        threading.Thread(target=worker, name=f"worker-{index}", daemon=True).start()
    ready()
    while True:
        semaphore.release()
        time.sleep(0.3)


def signals_by_locks():
    locks = [threading.Lock() for _ in range(6)]
    for lock in locks:
        lock.acquire()

    def worker(lock):
        while True:
            lock.acquire()

    for lock in locks:
        threading.Thread(target=worker, args=(lock,), daemon=True).start()
    ready()
    while True:
        time.sleep(0.3)
        # On a busy host its worker may not have had it since.
        if locks[0].locked():
            locks[0].release()


def long_work_behind_a_semaphore():
    """Who has a permit works for long; who waits has none, or one of another semaphore."""
    permits, others = threading.Semaphore(2), threading.BoundedSemaphore(4)

    def worker():
        while True:
            with others:
                with permits:
                    time.sleep(4)

    for _ in range(4):
        threading.Thread(target=worker, daemon=True).start()
    ready()
    while True:
        time.sleep(0.5)


def two_permits_at_times():
    """One of three permits is had by who gives it back, while others that have one want another."""
    permits = threading.Semaphore(3)

    def worker(nested):
        while True:
            with permits:
                time.sleep(3)
                if nested:
                    with permits:
                        pass

    for nested in [True, True, False]:
        threading.Thread(target=worker, args=(nested,), daemon=True).start()
    ready()
    while True:
        time.sleep(0.5)


def without_a_statement(connections):
    """Has one for long, again and again."""
    while True:
        one = connections.get()
        time.sleep(4)
        connections.put(one)
        time.sleep(0.2)


def connections_of_two_queues():
    """Who has one of the first queue wants one of the second, for long at times, and only once each.

    Of the third, one wants two, and another gets them without the manager.
    """
    queues = [queue.Queue(2), queue.SimpleQueue(), queue.Queue(2)]
    for one in queues:
        for index in range(2):
            one.put(index)

    @contextlib.contextmanager
    def connection(which):
        one = which.get()
        try:
            yield one
        finally:
            which.put(one)

    def worker():
        while True:
            with connection(queues[0]):
                with connection(queues[1]):
                    time.sleep(3)

    def other():
        while True:
            with connection(queues[1]):
                time.sleep(4)

    def pairs():
        while True:
            with connection(queues[2]):
                with connection(queues[2]):
                    time.sleep(0.05)

    without = functools.partial(without_a_statement, queues[2])
    for target in [worker, worker, worker, other, other, pairs, without]:
        threading.Thread(target=target, daemon=True).start()
    ready()
    while True:
        time.sleep(0.5)


def messages_that_are_put_back():
    """What has failed is done again: who has a message wants more of them at times, and nobody has a connection.

    Of the second queue, one puts the sign that all is over back; of the third, another one has a connection without a
    statement; who has one of the fourth wants one of the second.
    """
    queues = [queue.Queue(2) for _ in range(4)]
    for one in [queues[0], queues[2], queues[3]]:
        for index in range(2):
            one.put(index)

    def again():
        while True:
            message = queues[0].get()
            try:
                time.sleep(0.1)
                message = queues[0].get()
                raise KeyError(message)
            except KeyError:
                queues[0].put(message)

    def raises_again():
        message = queues[0].get()
        try:
            queues[0].get()
        except BaseException:
            queues[0].put(message)
            raise

    def consumes():
        first = queues[1].get()
        try:
            while first is not None and queues[1].get() is not None:
                pass
        finally:
            queues[1].put(None)

    def has_one():
        while True:
            one = queues[2].get()
            try:
                another = queues[2].get()
                queues[2].put(another)
            finally:
                queues[2].put(one)
            time.sleep(0.05)

    def of_another_queue():
        one = queues[3].get()
        try:
            queues[1].get()
        finally:
            queues[3].put(one)

    without = functools.partial(without_a_statement, queues[2])
    targets = [again, again, raises_again, consumes, consumes, has_one, without]
    for target in targets + [of_another_queue] * 3:
        threading.Thread(target=target, daemon=True).start()
    ready()
    while True:
        time.sleep(3)
        for _ in range(2):
            with contextlib.suppress(queue.Full):
                queues[0].put_nowait(0)
                queues[1].put_nowait(0)


def connections_of_queues_of_tasks():
    """Who has one works for long, or wants one of another queue; messages are no connections, whoever waits for more.

    Of the last queue, one task wants two, and has a manager that it does not enter; another one gets them without managers.
    """

    async def main():
        queues = [asyncio.Queue(2), asyncio.LifoQueue(2), asyncio.Queue(), asyncio.Queue(2)]
        for one in [queues[0], queues[1], queues[3]]:
            for index in range(2):
                one.put_nowait(index)

        @contextlib.asynccontextmanager
        async def connection(which):
            one = await which.get()
            try:
                yield one
            finally:
                which.put_nowait(one)

        @contextlib.asynccontextmanager
        async def message():
            one = await queues[2].get()
            try:
                yield one
            finally:
                queues[2].task_done()

        async def both():
            while True:
                async with connection(queues[0]):
                    async with connection(queues[1]):
                        await asyncio.sleep(3)

        async def second():
            while True:
                async with connection(queues[1]):
                    await asyncio.sleep(4)

        async def pairs():
            while True:
                async with message():
                    async with message():
                        pass

        async def twice():
            while True:
                async with connection(queues[3]):
                    unused = connection(queues[3])
                    async with connection(queues[3]):
                        await asyncio.sleep(0.05)
                    del unused

        async def without():
            while True:
                one = await queues[3].get()
                await asyncio.sleep(4)
                queues[3].put_nowait(one)
                await asyncio.sleep(0.2)

        async def sends():
            while True:
                await asyncio.sleep(4)
                for index in range(2):
                    queues[2].put_nowait(index)

        tasks = [both(), both(), both(), second(), second(), pairs(), pairs(), sends(), twice()]
        tasks.append(without())
        queues[2].put_nowait(0)
        queues[2].put_nowait(1)
        ready()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def permits_in_managers():
    """Who has a permit by way of a manager works for long; a time that a manager gives ends a circle."""
    permits = threading.Semaphore(2)

    @contextlib.contextmanager
    def limited():
        with permits:
            yield

    def worker():
        while True:
            with limited():
                time.sleep(4)

    for _ in range(3):
        threading.Thread(target=worker, daemon=True).start()

    @contextlib.asynccontextmanager
    async def in_time():
        if not hasattr(asyncio, "timeout"):
            yield asyncio.wait_for
            return
        async with asyncio.timeout(4):
            yield lambda one, _: one

    async def take(one, other):
        async with one:
            await asyncio.sleep(0.1)
            with contextlib.suppress(asyncio.TimeoutError):
                async with in_time() as wait:
                    await wait(locked(other), 4)

    async def main():
        ready()
        while True:
            first, second = asyncio.Lock(), asyncio.Lock()
            await asyncio.gather(take(first, second), take(second, first))

    asyncio.run(main())


def tasks_behind_a_semaphore():
    async def main():
        permits, others = asyncio.Semaphore(2), asyncio.BoundedSemaphore(4)

        async def worker():
            while True:
                async with others:
                    async with permits:
                        await asyncio.sleep(4)

        workers = [asyncio.ensure_future(worker()) for _ in range(6)]
        ready()
        await asyncio.gather(*workers)

    asyncio.run(main())


def barrier():
    meeting = threading.Barrier(5)

    def worker():
        while True:
            meeting.wait()

    for _ in range(4):
        threading.Thread(target=worker, daemon=True).start()
    ready()
    while True:
        time.sleep(1)
        meeting.wait()


def many_consumers():
    items = queue.Queue()

    def worker():
        while True:
            items.get()

    for _ in range(6):
        threading.Thread(target=worker, daemon=True).start()
    ready()
    while True:
        items.put(1)
        time.sleep(0.3)


def consumers_in_processes():
    """Each waits for a lock of all of them, and one for the semaphore of the queue."""
    items = multiprocessing.Queue()

    def worker():
        while True:
            items.get()

    for _ in range(3):
        multiprocessing.get_context("fork").Process(target=worker, daemon=True).start()
    ready()
    while True:
        items.put(1)
        time.sleep(0.3)


def batch_over_own_pool():
    """Who maps it has filled the pools' queues, and waits for all of it."""
    threads, others = ThreadPoolExecutor(2), ThreadPool(2)
    ready()
    beside = others.map_async(time.sleep, [0.2] * 10_000)
    list(threads.map(time.sleep, [0.2] * 10_000))
    beside.get()


def nested_locks():
    """Taken in one order, for moments."""
    first, second = threading.RLock(), threading.Lock()

    def worker():
        while True:
            with first:
                with second:
                    time.sleep(0.001)
            time.sleep(0.03)

    for _ in range(3):
        threading.Thread(target=worker, daemon=True).start()
    ready()
    while True:
        time.sleep(0.5)


def with_statements_again_and_again():
    """What is left on a thread's stack of statements that it has left does not make it the owner."""
    lock = threading.Lock()

    def deep():
        for _ in range(3):
            for _ in range(3):
                with lock:
                    pass

    def worker():
        while True:
            for _ in range(2):
                with lock:
                    with open(os.devnull):
                        pass
            deep()
            with lock:
                pass
            time.sleep(0.01)

    def keeper():
        while True:
            lock.acquire()
            time.sleep(2.5)
            lock.release()
            time.sleep(0.1)

    threading.Thread(target=worker, daemon=True).start()
    threading.Thread(target=keeper, daemon=True).start()
    ready()
    while True:
        time.sleep(0.5)


def kept(*workers):
    """Each has a lock of its own, which another thread has most of the time, and takes it without a statement."""
    locks = [threading.Lock() for _ in workers]

    def again_and_again(worker, lock):
        while True:
            worker(lock)
            time.sleep(0.01)

    def keeper():
        while True:
            for lock in locks:
                lock.acquire()
            time.sleep(5)
            for lock in locks:
                lock.release()
            time.sleep(0.1)

    for pair in zip(workers, locks):
        threading.Thread(target=again_and_again, args=pair, daemon=True).start()
    threading.Thread(target=keeper, daemon=True).start()
    ready()
    while True:
        time.sleep(0.5)


def statements_of_any_length():
    """What enters a long one has a larger argument in some versions, which takes more instructions."""

    def of(lines):
        names = {}
        body = "        count += 1\n" * lines
        source = "def enter(lock):\n    count = 0\n    with lock:\n" + body
        exec(compile(source, __file__, "exec"), names)
        return names["enter"]

    kept(of(1), of(120), of(10_000))


def methods_in_variables():
    """Who has the method that would release a lock need not have the lock."""

    def by_hand(lock):
        leave = lock.__exit__
        lock.acquire()
        leave(None, None, None)

    def by_argument(lock, leave=None):
        if leave is None:
            return by_argument(lock, lock.__exit__)
        with lock:
            pass

    def by_stack(lock):
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock)

    kept(by_hand, by_argument, by_stack)


def joins_with_a_time():
    """The thread that is waited for waits for the lock, and gets it when the time is over."""
    lock = threading.Lock()

    def writer():
        with lock:
            pass

    def closer():
        while True:
            thread = threading.Thread(target=writer, name="writer", daemon=True)
            with lock:
                thread.start()
                thread.join(4)
            thread.join()

    threading.Thread(target=closer, name="closer", daemon=True).start()
    ready()
    while True:
        time.sleep(0.5)


def locks_of_a_fork():
    """Threads of a fork have locks without being in a `with` statement of them, and keep them for long."""
    locks = [threading.RLock(), threading.Lock()]

    @contextlib.contextmanager
    def taken(lock):
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def work(lock):
        with taken(lock):
            time.sleep(1000)

    def want(lock):
        with lock:
            pass

    if os.fork() == 0:
        for target in [work, want]:
            for lock in locks:
                threading.Thread(target=target, args=(lock,), daemon=True).start()
            time.sleep(0.3)
        locks[0].acquire()
        os._exit(1)
    ready()
    while True:
        time.sleep(0.5)


def waiters_of_one_asyncio_lock():
    """Who has it works for long, and has taken it without a statement."""

    async def main():
        lock = asyncio.Lock()
        await lock.acquire()

        async def wait():
            async with lock:
                pass

        waiters = [asyncio.ensure_future(wait()) for _ in range(2)]
        ready()
        await tick()
        await asyncio.gather(*waiters)

    asyncio.run(main())


def tasks_with_a_time():
    """They want each other's locks, and give up after a time that a statement gives them, or a call."""

    async def by_statement(lock):
        async with asyncio.timeout(4):
            await locked(lock)

    async def by_call(lock):
        await asyncio.wait_for(locked(lock), 4)

    async def main():
        ready()
        while True:
            circles = []
            for limited in [by_call] + ([by_statement] if hasattr(asyncio, "timeout") else []):
                first, second = asyncio.Lock(), asyncio.Lock()
                circles.append(take_both(first, second, limited))
                circles.append(take_both(second, first, limited))
            await asyncio.gather(*circles)

    asyncio.run(main())


def tasks_that_are_given_up():
    """They want each other's locks, until who waits for them cancels them."""

    async def main():
        ready()
        while True:
            first, second = asyncio.Lock(), asyncio.Lock()
            circle = [take_both(first, second, locked), take_both(second, first, locked)]
            circle = [asyncio.ensure_future(one) for one in circle]
            _, pending = await asyncio.wait(circle, timeout=4)
            for task in pending:
                task.cancel()

    asyncio.run(main())


def groups_with_a_time():
    """They want each other's locks, until the time of who waits for their group is over."""

    async def in_group(*circle, body=0):
        async with asyncio.TaskGroup() as group:
            for one in circle:
                group.create_task(one)
            await asyncio.sleep(body)

    def of(body):
        """Who waits for the group may do something else before."""
        if hasattr(asyncio, "TaskGroup"):
            return functools.partial(in_group, body=body)
        return asyncio.gather

    async def again_and_again(together):
        while True:
            first, second = asyncio.Lock(), asyncio.Lock()
            circle = [take_both(first, second, locked), take_both(second, first, locked)]
            try:
                if hasattr(asyncio, "timeout"):
                    async with asyncio.timeout(8):
                        await together(*circle)
                else:
                    await asyncio.wait_for(together(*circle), 8)
            except asyncio.TimeoutError:
                pass

    async def main():
        ready()
        await asyncio.gather(*[again_and_again(of(body)) for body in [0, 1000]])

    asyncio.run(main())


if __name__ == "__main__":
    globals()[sys.argv[1]]()
