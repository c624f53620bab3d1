"""An aiohttp application that keeps its own account of which route each request was of.

usage: routes_aiohttp.py HOW

HOW: run_app, or runner (nothing runs but the loop while nobody asks). A command on stdin: says how many requests each route
had, by method, path and status.
"""

import asyncio
import os
import socket
import sys
import threading
from collections import Counter
from pathlib import Path

from account import commands, say
from aiohttp import web

served = Counter()


@web.middleware
async def account(request, handler):
    resource = getattr(request.match_info.route, "resource", None)
    route = resource.canonical if resource else ""
    try:
        response = await handler(request)
        status = response.status
    except web.HTTPException as error:
        status = error.status
        raise
    finally:
        served["%s %s %d" % (request.method, route, status)] += 1
    return response


async def answer(request):
    return web.Response(text="x")


def application():
    app = web.Application(middlewares=[account])
    app.router.add_get("/", answer)
    app.router.add_get("/items/latest", answer)
    app.router.add_get("/items/{item_id}", answer)
    app.router.add_put("/items/{item_id}", answer)
    app.router.add_get("/n/{word}", answer)
    app.router.add_get(r"/n/{number:\d+}/{rest:.*}", answer)
    # What is registered last is tried first where it is longer.
    app.router.add_get("/{tail:.*}", answer)
    app.router.add_route("*", "/any/{name}.json", answer)
    app.router.add_static("/static", Path(__file__).parent)
    inner = web.Application()
    inner.router.add_get("/users/{user}", answer)
    inner.router.add_post("/users", answer)
    app.add_subapp("/api", inner)
    return app


def listen(port):
    say(account="ready", pid=os.getpid(), worker=os.getpid(), port=port)
    for _ in commands():
        say(account="served", counts=dict(served))
    os._exit(0)


async def by_runner(app, sock):
    runner = web.AppRunner(app)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    await asyncio.Event().wait()


def main():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    threading.Thread(target=listen, args=(sock.getsockname()[1],), daemon=True).start()
    if sys.argv[1] == "run_app":
        web.run_app(application(), sock=sock, print=None, handle_signals=False)
    else:
        asyncio.run(by_runner(application(), sock))


main()
