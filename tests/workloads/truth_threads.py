"""Threads of all kinds, parked at known places; accounts: stacks, names."""

import _thread
import asyncio
import concurrent.futures
import ctypes
import functools
import importlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time

import truth

FOREVER = threading.Event()
DEEP = 300
# (thread, entry, role) of what `threading` knows.
known = []
# Idents of threads that it does not know, by native id.
strangers = {}
kept = []
folders = []


def park(*_):
    FOREVER.wait()


def recursive(depth):
    if depth:
        return recursive(depth - 1)
    return park()


class Base:
    @property
    def parks(self):
        return park()

    def method(self):
        for _ in self.generator():
            pass

    def generator(self):
        yield 1
        yield from self.deeper()

    def deeper(self):
        yield park()

    @classmethod
    def of_class(cls):
        return [park() for _ in range(1)]

    @staticmethod
    def of_nothing():
        return (lambda: park())()

    def __getattr__(self, name):
        park()


class Derived(Base):
    class Inner:
        def __enter__(self):
            park()

        def __exit__(self, *_):
            pass

    def method(self):
        super().method()

    def __call__(self):
        def naïve_世界(_):
            return park()

        sorted([1, 2], key=naïve_世界)


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@decorated
@functools.lru_cache(None)
def with_decorators():
    try:
        raise ValueError
    except ValueError:
        try:
            park()
        finally:
            pass


def enters():
    with Derived.Inner():
        pass


def generator_expression():
    return sum(park() for _ in range(1))


def comprehensions():
    return {key: [park() for _ in range(1)] for key in range(1)}


def class_body():
    class Local:
        value = park()

    return Local


def executed():
    source = "\n\n\ndef inner():\n    return park()\n\ninner()"
    exec(compile(source, "<made up>", "exec"), {"park": park})


def evaluated():
    eval("[park()][0]", {"park": park})


def not_ascii():
    source = "\n" * 70000 + "def k\u00f6rper():\n  park(\n  )\nk\u00f6rper()"
    exec(compile(source, "/nowhere/m\u00f6dul \u4e16\u754c \U0001f40d.py", "exec"), {"park": park})


def imports():
    """The stack has the import system's frozen code in it."""
    folder = tempfile.mkdtemp()
    folders.append(folder)
    with open(os.path.join(folder, "m\u00f6dul_\u4e16.py"), "w", encoding="utf-8") as file:
        file.write("import parks_here\n\n\nparks_here.park()\n")
    sys.path.insert(0, folder)
    sys.modules["parks_here"] = sys.modules["__main__"]
    importlib.import_module("m\u00f6dul_\u4e16")


def through_c():
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda _: park() or 0)
    callback(1)


async def coroutine():
    async for _ in numbers():
        pass


async def numbers():
    yield park()


def drives_a_coroutine():
    coroutine().send(None)


def many_lines():
    x = 1

    y = (
        x
        + 2
    )
    return park(
        x,
        y,
    ), y


def handler(_signal, _frame):
    park()


def interrupted():
    # The handler runs in the main thread only, on top of what it does.
    os.kill(os.getpid(), signal.SIGUSR1)
    while True:
        time.sleep(0.01)


class OwnRun(threading.Thread):
    def run(self):
        park()


def start(entry, target=None, role="other", **options):
    thread = threading.Thread(target=target, **options)
    thread.start()
    known.append((thread, entry, role))
    return thread


def start_threads():
    worker = Derived()
    main = "__main__."
    start(main + "park", park)
    start(main + "recursive", recursive, args=(DEEP,), name="deep", daemon=True)
    start(main + "recursive", functools.partial(recursive, 3), name="partial")
    start(main + "Derived.method", worker.method, name="n\u00e4me \u4e16\u754c \U0001f40d")
    start(main + "Base.of_class", Derived.of_class, name="long " + "x" * 200)
    start(main + "Base.of_nothing", Derived.of_nothing, name="")
    start(main + "Derived.__call__", worker, name="callable", daemon=True)
    unnamed = main + "start_threads.<locals>.<lambda>"
    start(unnamed, lambda: worker.parks, name="lambda")
    start(unnamed, lambda: worker.absent, name="\x1b[31mred\n")
    for target in [
        enters,
        generator_expression,
        comprehensions,
        class_body,
        executed,
        evaluated,
        not_ascii,
        imports,
        through_c,
        drives_a_coroutine,
        many_lines,
    ]:
        start(main + target.__name__, target, name=target.__name__, daemon=True)
    start(main + "with_decorators", with_decorators)
    start("threading.Event.wait", FOREVER.wait, name="event")
    start("time.sleep", time.sleep, args=(36000,), name="sleep")
    own = OwnRun(name="own run", daemon=True)
    own.start()
    known.append((own, main + "OwnRun.run", "other"))
    timer = threading.Timer(36000, park)
    timer.start()
    known.append((timer, "threading.Timer.run", "other"))
    start(main + "park", park, name="before").name = "after"


def start_pool():
    before = set(threading.enumerate())
    pool = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="crunch")
    for _ in range(2):
        pool.submit(park)
    for thread in set(threading.enumerate()) - before:
        known.append((thread, "concurrent.futures.thread._worker", "pool"))
    kept.append(pool)


def start_loop():
    def runs():
        asyncio.new_event_loop().run_forever()

    start("__main__.start_loop.<locals>.runs", runs, "loop", name="loop", daemon=True)


def start_strangers():
    """Threads that were not made by `threading`: it knows those that have asked who they are."""
    here = threading.Semaphore(0)

    def asks(*_):
        known.append((threading.current_thread(), None, "other"))
        here.release()
        park()

    def does_not_ask(*_):
        strangers[threading.get_native_id()] = threading.get_ident()
        here.release()
        park()

    def in_c(function):
        function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(function)
        library = ctypes.CDLL(None)
        if not hasattr(library, "pthread_create"):
            library = ctypes.CDLL("libpthread.so.0")
        if library.pthread_create(ctypes.byref(ctypes.c_ulong()), None, function, None) != 0:
            raise OSError("pthread_create failed")
        kept.append(function)

    _thread.start_new_thread(asks, ())
    _thread.start_new_thread(does_not_ask, ())
    in_c(asks)
    in_c(does_not_ask)
    for _ in range(4):
        here.acquire()
    # One that runs no Python code at all.
    lock = _thread.allocate_lock()
    lock.acquire()
    kept.append(lock)
    _thread.start_new_thread(lock.acquire, ())


def account():
    for folder in folders:
        shutil.rmtree(folder, True)
    frames = sys._current_frames()
    stacks, names = [], []
    for thread, entry, role in known:
        names.append(
            {
                "tid": thread.native_id,
                "ident": thread.ident,
                "name": thread.name,
                "daemon": thread.daemon,
                "entry": entry,
                "role": role,
            }
        )
        stacks.append({"tid": thread.native_id})
        # The one that says this is on its way to where it will be.
        if thread is not threading.current_thread():
            stacks[-1]["stack"] = truth.stack(frames.pop(thread.ident))
    tids = {thread.native_id for thread, _, _ in known}
    for tid in sorted(set(map(int, os.listdir("/proc/self/task"))) - tids):
        names.append({"tid": tid, "name": None, "daemon": None, "entry": None, "role": "other"})
        stacks.append({"tid": tid, "stack": []})
        if tid in strangers:
            names[-1]["ident"] = strangers[tid]
            stacks[-1]["stack"] = truth.stack(frames.pop(strangers[tid]))
    del frames[threading.get_ident()]
    assert not frames, "threads that run Python code were forgotten"
    return {"stacks": {"threads": stacks}, "names": {"threads": names}}


def main():
    signal.signal(signal.SIGUSR1, handler)
    known.append((threading.main_thread(), "__main__", "main"))
    start_threads()
    start_pool()
    start_loop()
    start_strangers()
    known.append((truth.tell_beside(account), "truth.tell", "other"))
    interrupted()


main()
