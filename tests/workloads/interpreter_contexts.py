"""A thousand tasks, each with a request id of its own in its context; prints them by task as JSON.

Half of the contexts have fifty other variables beside. It ends when its standard input is closed.
"""

import asyncio
import contextvars
import json
import os
import sys
import threading
import uuid

request_id = contextvars.ContextVar("request_id")
trace_id = contextvars.ContextVar("trace_id", default="nobody sees defaults")
others = [contextvars.ContextVar(f"other_{number}") for number in range(50)]


class Own:
    pass


# What a variable holds, and how it is to be shown.
KINDS = [
    lambda number: (f"request-{number}", f"request-{number}"),
    lambda number: ("\u4e16" * 300, "\u4e16" * 256),
    lambda number: (number, str(number)),
    lambda number: (-(2**100) - number, str(-(2**100) - number)),
    lambda number: (2**127 + number, str(2**127 + number)),
    lambda number: (b"bytes-%d" % number, f"bytes-{number}"),
    lambda number: (b"\xff\xfe" + bytes([number % 256]), "fffe" + "%02x" % (number % 256)),
    lambda number: (uuid.UUID(int=number), str(uuid.UUID(int=number))),
    lambda number: ((lambda u: (u, str(u)))(uuid.uuid4())),
    lambda number: (number % 2 == 0, str(number % 2 == 0)),
    lambda number: (None, "None"),
    lambda number: (number + 0.5, str(number + 0.5)),
    lambda number: (Own(), "<__main__.Own>"),
]


async def handle(number, value):
    if number % 2:
        for index, other in enumerate(others):
            other.set(index)
    request_id.set(value)
    if number % 3 == 0:
        trace_id.set(f"trace-{number}")
    await asyncio.sleep(36000)


async def main():
    expected, kept = {}, []
    for number in range(1000):
        value, text = KINDS[number % len(KINDS)](number)
        task = asyncio.get_running_loop().create_task(handle(number, value))
        kept.append(task)
        expected[id(task)] = {"request_id": text}
        if number % 3 == 0:
            expected[id(task)]["trace_id"] = f"trace-{number}"
    await asyncio.sleep(0.1)
    expected[id(asyncio.current_task())] = {}
    print(json.dumps(expected), flush=True)
    await asyncio.sleep(36000)


def end():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end, daemon=True).start()
asyncio.run(main())
