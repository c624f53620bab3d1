"""A FastAPI application behind uvicorn, with a middleware that gives each request an id.

usage: web.py [--loop asyncio|uvloop] [--every SECONDS] [--length SECONDS]

/items/N answers at once or after a short wait. /reports does, too, but with --every it blocks the loop
once in so many seconds, for --length. A line on stdin: says what has been served, and each such block:
in which task and coroutine, with which request id, at which line, when (CLOCK_MONOTONIC, ns).
"""

import argparse
import asyncio
import contextvars
import itertools
import os
import socket
import sys
import threading
import time

import fastapi
import pydantic
import uvicorn

from account import say

request_id = contextvars.ContextVar("request_id", default=None)
numbers = itertools.count(1)
blocks = []


class Item(pydantic.BaseModel):
    number: int
    name: str
    tags: list


def build_report(length):
    line = sys._getframe().f_lineno + 1
    time.sleep(length)
    return line


def application(options):
    app = fastapi.FastAPI()
    last = [time.monotonic()]

    @app.middleware("http")
    async def identify(request, call_next):
        request_id.set("request-%d" % next(numbers))
        return await call_next(request)

    @app.get("/items/{number}")
    async def read_item(number: int) -> Item:
        if number % 2:
            await asyncio.sleep(0.002)
        return Item(number=number, name="item", tags=list(range(number % 20)))

    @app.get("/reports")
    async def read_report():
        begin = time.monotonic_ns()
        if options.every and time.monotonic() - last[0] > options.every:
            last[0] = time.monotonic()
            line = build_report(options.length)
            task = asyncio.current_task()
            blocks.append(
                dict(
                    kind="sleep",
                    task=task.get_name(),
                    coroutine=task.get_coro().__qualname__,
                    request_id=request_id.get(),
                    begin_ns=begin,
                    end_ns=time.monotonic_ns(),
                    function="build_report",
                    line=line,
                )
            )
        return {"report": next(numbers)}

    return app


def listen():
    """Answers commands until stdin is closed."""
    for _ in sys.stdin:
        say(account="served", count=next(numbers) - 1, blocks=list(blocks))
    os._exit(0)


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        threading.Thread(target=listen, daemon=True).start()
        say(account="ready", pid=os.getpid(), port=sockets[0].getsockname()[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="asyncio")
    parser.add_argument("--every", type=float, default=0)
    parser.add_argument("--length", type=float, default=0.15)
    options = parser.parse_args()
    config = uvicorn.Config(
        application(options), loop=options.loop, log_level="warning", access_log=False
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    Server(config).run(sockets=[listener])


main()
