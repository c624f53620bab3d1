"""What every truth program shares: a parked program's account of itself, for `cargo xtask pythons`.

An account is one line of JSON: `cells`, by the name of a column of that table, what `concmon-bpf dump
--json` must say of this process. Keys that are not here are not compared. Where several answers are
right, it has `{"any": [...]}`.
It comes from what Python itself offers, and from what the program knows because it did it.
"""

import gc
import json
import os
import sys
import threading
import time
import types

HAS_QUALNAMES = hasattr(types.CodeType, "co_qualname")
AWAITABLES = (types.AsyncGeneratorType, types.CoroutineType, types.GeneratorType)
WRAPPERS = (
    "anext_awaitable",
    "async_generator_asend",
    "async_generator_athrow",
    "coroutine_wrapper",
)


def qualified(code, *known):
    """The names of a function; before 3.11 its code does not know the qualified one."""
    if HAS_QUALNAMES:
        return code.co_qualname
    names = dict.fromkeys([code.co_name])
    for thing in list(known) + [f for f in gc.get_referrers(code) if type(f) is types.FunctionType]:
        if thing.__qualname__.split(".")[-1] == code.co_name:
            names[thing.__qualname__] = None
    return {"any": list(names)}


def place(frame, *known):
    code = frame.f_code
    return {
        "function": qualified(code, *known),
        "file": code.co_filename,
        "line": frame.f_lineno,
    }


def stack(frame):
    """The innermost frame first."""
    places = []
    while frame is not None:
        places.append(place(frame))
        frame = frame.f_back
    return places


def awaited(awaitable):
    """What a coroutine, generator or asynchronous generator waits for."""
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        following = getattr(awaitable, name, None)
        if following is not None:
            break
    while type(following).__name__ in WRAPPERS:
        # These have no attribute for what they stand for.
        found = [
            thing
            for thing in gc.get_referents(following)
            if isinstance(thing, AWAITABLES) or type(thing).__name__ in WRAPPERS
        ]
        following = found[0] if found else None
    return following


def await_chain(awaitable):
    """From a task's own coroutine down to the innermost one that waits."""
    places = []
    while awaitable is not None:
        for name in ("cr_frame", "gi_frame", "ag_frame"):
            frame = getattr(awaitable, name, None)
            if frame is not None:
                places.append(place(frame, awaitable))
                break
        awaitable = awaited(awaitable)
    return places


def running_chain(coroutine, ident):
    """Where a running task is: its coroutine's frame, and those that it has called."""
    places = []
    frame = sys._current_frames()[ident]
    while frame is not None:
        places.insert(0, place(frame))
        if frame is coroutine.cr_frame:
            places[0] = place(frame, coroutine)
            return places
        frame = frame.f_back
    raise RuntimeError("the coroutine is not in the thread")


def loop_account(loop, tid, kind, tasks):
    """What is known of a running loop; of uvloop's only what it keeps as Python objects."""
    account = {
        "tid": tid,
        "kind": kind,
        "running": True,
        "pending_tasks": sum(task.get("state") != "done" for task in tasks),
        "tasks": tasks,
    }
    if kind == "asyncio":
        account["debug"] = loop.get_debug()
        account["stall_threshold_ns"] = int(loop.slow_callback_duration * 1e9)
        account["ready"] = len(loop._ready)
        account["scheduled"] = len(loop._scheduled)
    return account


def parked(account):
    """The account once it does not change any more."""
    deadline = time.monotonic() + 60
    before, same = None, 0
    while same < 3:
        time.sleep(0.1)
        now = account()
        same = same + 1 if now == before else 0
        before = now
        if time.monotonic() > deadline:
            raise RuntimeError("the program does not come to rest")
    return before


def leave():
    """Ends the program when the test closes its standard input, whatever threads there are."""
    for _ in sys.stdin:
        pass
    os._exit(0)


def tell(account):
    """Prints the account when the program is at rest, and keeps it so."""
    try:
        print(json.dumps({"cells": parked(account)}), flush=True)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    leave()


def tell_beside(account):
    """The same from another thread, while this one goes to where it is to be found."""
    reporter = threading.Thread(target=tell, args=(account,), name="reporter", daemon=True)
    reporter.start()
    return reporter
