"""A thousand tasks with a request id each; account: contexts."""

import asyncio
import contextvars
import threading
import uuid

import truth

TASKS = 1000
request_id = contextvars.ContextVar("request_id")
correlation_id = contextvars.ContextVar("correlation_id", default="default")
others = [contextvars.ContextVar("other_%d" % number) for number in range(40)]
# The same name again, in another variable that is not set.
namesake = contextvars.ContextVar("request_id")
expected = {}
loops = []


async def waits():
    await asyncio.sleep(36000)


async def sets_within(value):
    """The value is set by the task itself, over one that it has got."""
    request_id.set(value)
    await asyncio.sleep(36000)


async def passes_on(depth, value, text):
    """Every level copies the context and adds to it; the id was set at the top."""
    others[depth % len(others)].set(depth)
    if depth == 0:
        note(asyncio.current_task(), text)
        await asyncio.sleep(36000)
    else:
        task = asyncio.ensure_future(passes_on(depth - 1, value, text))
        note(task, text)
        await task


def note(task, text, correlation=None):
    context = {}
    if text is not None:
        context["request_id"] = text
    if correlation is not None:
        context["correlation_id"] = correlation
    expected[task] = context


def value(number):
    """A value of some kind, and what it looks like."""
    kind = number % 8
    if kind == 0:
        return number, str(number)
    if kind == 1:
        return -number * 10**15, str(-number * 10**15)
    if kind == 2:
        text = "r\u00e9quest-\u4e16-%d" % number
        return text, text
    if kind == 3:
        return b"id-%d" % number, "id-%d" % number
    if kind == 4:
        identity = uuid.UUID(int=number * 2**100 + number)
        return identity, str(identity)
    if kind == 5:
        text = "\U0001f40d%d" % number
        return text, text
    return "request-%d" % number, "request-%d" % number


async def main(depths):
    loops.append((asyncio.get_running_loop(), threading.get_native_id()))
    note(asyncio.current_task(), None)
    for number in range(TASKS):
        given, text = value(number)
        context = contextvars.copy_context()
        if number % 3 == 0:
            for place, other in enumerate(others):
                context.run(other.set, (number, place))
        if number % 5 == 0:
            task = context.run(asyncio.ensure_future, sets_within(given))
        elif number % 7 == 0:
            # Nested as deep as the next ones that are not.
            context.run(request_id.set, given)
            coroutine = passes_on(depths[number % len(depths)], given, text)
            task = context.run(asyncio.ensure_future, coroutine)
        else:
            context.run(request_id.set, given)
            task = context.run(asyncio.ensure_future, waits())
        note(task, text)
        if number % 11 == 0:
            context = contextvars.copy_context()
            context.run(request_id.set, given)
            context.run(correlation_id.set, "c-%d" % number)
            both = context.run(asyncio.ensure_future, waits())
            note(both, text, "c-%d" % number)
    await asyncio.sleep(0.05)
    truth.tell_beside(account)
    await asyncio.Event().wait()


def account():
    loop, tid = loops[0]
    tasks = asyncio.all_tasks(loop)
    assert tasks == set(expected), "a task was forgotten"
    described = [{"id": hex(id(task)), "context": expected[task]} for task in tasks]
    described.sort(key=lambda one: one["id"])
    return {"contexts": {"loops": [{"tid": tid, "tasks": described}]}}


asyncio.run(main([1, 3, 45]))
