"""Threads that wait for one thing each; says which."""
import concurrent.futures
import json
import multiprocessing
import queue
import sys
import threading
import time

account = {}
ready = []


class Guarded:
    def __init__(self):
        self._lock = threading.Lock()
        self._lock.acquire()

    def work(self):
        with self._lock:
            pass


def waiter(name, kind, purpose, target, thing=None, owner=None):
    """A thread that does nothing but `target()`."""

    def run():
        account[str(threading.get_ident())] = {
            "name": name,
            "kind": kind,
            "purpose": purpose,
            "object": None if thing is None else id(thing),
            "owner": owner,
        }
        target()

    thread = threading.Thread(target=run, name=name, daemon=True)
    ready.append(thread)
    thread.start()
    return thread


lock, timed, held = threading.Lock(), threading.Lock(), threading.RLock()
for taken in (lock, timed):
    taken.acquire()
guarded = Guarded()


def enter(thing):
    def run():
        with thing:
            pass

    return run


waiter("lock", "Lock", "Contended", lock.acquire, lock)
waiter("lock-with", "Lock", "Contended", enter(lock), lock)
waiter("lock-timed", "Lock", "Item", lambda: timed.acquire(timeout=10000), timed)
waiter("lock-attribute", "Lock", "Contended", guarded.work, guarded._lock)

holds, gone = threading.Event(), threading.Event()


def hold():
    with held:
        holds.set()
        gone.wait()


holder = waiter("holder", "Event", "Other", hold, gone)
holds.wait()
waiter("rlock", "RLock", "Contended", held.acquire, held, holder.ident)
waiter("rlock-with", "RLock", "Contended", enter(held), held, holder.ident)

condition = threading.Condition()


def wait(thing, *arguments):
    def run():
        with thing:
            thing.wait(*arguments)

    return run


def wait_for():
    with condition:
        condition.wait_for(lambda: False)


waiter("condition", "Condition", "Other", wait(condition), condition)
waiter("condition-timed", "Condition", "Other", wait(condition, 10000), condition)
waiter("condition-for", "Condition", "Other", wait_for, condition)
taken_condition = threading.Condition(held)
waiter("condition-lock", "RLock", "Contended", enter(taken_condition), held, holder.ident)

event = threading.Event()
waiter("event", "Event", "Other", event.wait, event)
waiter("event-timed", "Event", "Other", lambda: event.wait(10000), event)
semaphore = threading.Semaphore(0)
waiter("semaphore", "Semaphore", "Item", semaphore.acquire, semaphore)
bounded = threading.BoundedSemaphore(1)
bounded.acquire()
waiter("semaphore-with", "Semaphore", "Item", enter(bounded), bounded)
barrier = threading.Barrier(2)
waiter("barrier", "Barrier", "Other", barrier.wait, barrier)

for name, made in (("queue", queue.Queue()), ("queue-priority", queue.PriorityQueue())):
    waiter(name, "Queue", "Item", made.get, made)
waiter("queue-timed", "Queue", "Item", lambda: made.get(timeout=10000), made)
full = queue.Queue(1)
full.put(1)
waiter("queue-put", "Queue", "Other", lambda: full.put(2), full)
waiter("queue-join", "Queue", "Other", full.join, full)
simple = queue.SimpleQueue()
waiter("simple", "SimpleQueue", "Item", simple.get, simple)
waiter("simple-timed", "SimpleQueue", "Item", lambda: simple.get(timeout=10000), simple)
in_python = queue._PySimpleQueue()
waiter("simple-python", "SimpleQueue", "Item", in_python.get, in_python)

waiter("join", "Join", "Join", holder.join, holder, holder.ident)
waiter("join-timed", "Join", "Join", lambda: holder.join(10000), holder, holder.ident)

future = concurrent.futures.Future()
waiter("future", "Future", "Other", future.result, future)
waiter("future-wait", "Future", "Other", lambda: concurrent.futures.wait([future]))
waiter("future-next", "Future", "Other", lambda: next(concurrent.futures.as_completed([future])))

pool = concurrent.futures.ThreadPoolExecutor(3, thread_name_prefix="pool")
for job in [pool.submit(time.sleep, 0.05) for _ in range(3)]:
    job.result()
for worker in pool._threads:
    account[str(worker.ident)] = {
        "name": worker.name,
        "kind": "SimpleQueue",
        "purpose": "Work",
        "object": id(pool._work_queue),
        "owner": None,
    }

permits = multiprocessing.Semaphore(0)
waiter("permits", "Semaphore", "Item", permits.acquire, permits._semlock)
between = multiprocessing.Lock()
between.acquire()
waiter("between", "Semaphore", "Contended", between.acquire, between._semlock)

deep = threading.Lock()
deep.acquire()


def dig(depth):
    return dig(depth - 1) if depth else deep.acquire()


waiter("deep", "Lock", "Item", lambda: dig(50), deep)
waiter("sleep", None, None, lambda: time.sleep(10000))

# They are all on their way; what they wait for never comes.
time.sleep(0.5)
print(json.dumps(account), flush=True)
sys.stdin.read()
