"""A FastAPI application that keeps its own account of which route each request was of.

usage: routes.py LOOP [ROOT_PATH]

LOOP: asyncio, uvloop. A command on stdin: says how often the handler of each route was called, by method, path and status.
"""

import functools
import os
import socket
import threading
import time
from collections import Counter

import uvicorn
from account import commands, say
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

served = Counter()
lock = threading.Lock()


def serve(router, method, path, whole=None):
    """A route that counts itself under its whole path."""
    whole = whole or path

    def decorate(handler):
        return router.api_route(path, methods=[method])(handler)

    def account():
        with lock:
            served["%s %s 200" % (method, whole)] += 1

    return decorate, account


app = FastAPI()
app.add_middleware(CORSMiddleware)
seen = {}


def timed(function):
    @functools.wraps(function)
    async def wrapper(request, call_next):
        before = time.monotonic()
        try:
            return await function(request, call_next)
        finally:
            seen["took"] = time.monotonic() - before

    return wrapper


@app.middleware("http")
@timed
async def log(request, call_next):
    seen.update(method=request.method, path=request.url.path)
    return await call_next(request)


add, count_latest = serve(app, "GET", "/items/latest")


@add
async def latest():
    count_latest()
    return 1


add, count_item = serve(app, "GET", "/items/{item_id}")


@add
async def item(item_id: str):
    count_item()
    return item_id


add, count_put = serve(app, "PUT", "/items/{item_id}")


@add
def put(item_id: str):
    count_put()
    return item_id


users = APIRouter(prefix="/users")
add, count_post = serve(users, "GET", "/{user}/posts/{post:int}", "/api/users/{user}/posts/{post:int}")


@add
async def post(user: str, post: int):
    count_post()
    return user


app.include_router(users, prefix="/api")


async def deep(request):
    with lock:
        served["GET /sub/more/deep/{rest:path} 200"] += 1
    return PlainTextResponse("deep")


inner = Mount("/more", routes=[Route("/deep/{rest:path}", deep)])
app.mount("/sub", Starlette(routes=[inner]))


def add_late():
    """A route that was not there at the beginning."""
    add, count_late = serve(app, "GET", "/late/{name}")

    @add
    async def late(name: str):
        count_late()
        return name


def listen(port):
    say(account="ready", pid=os.getpid(), port=port)
    for command in commands():
        if command.get("add"):
            add_late()
        say(account="served", counts=dict(served))
    os._exit(0)


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = sockets[0].getsockname()[1]
        threading.Thread(target=listen, args=(port,), daemon=True).start()


def main():
    import sys

    sock = socket.socket(proto=socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen(512)
    loop, *below = sys.argv[1:]
    config = uvicorn.Config(app, loop=loop, root_path="".join(below), log_level="critical", access_log=False)
    Server(config).run(sockets=[sock])


main()
