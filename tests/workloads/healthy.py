"""Web servers as people run them, with an application that is healthy until one of its handlers is asked to be sick.

usage: healthy.py SERVER

/, /rows and /work answer soon: at once, after a short wait, with what a thread has made. /sick/sleep and /sick/lock
stand still where they run, /sick/pool takes a thread of a pool for seconds. Begun with a server's name it runs the
server, and says its id and port; the server imports this file for the application.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

ROWS = json.dumps([{"id": number, "name": "row %d" % number} for number in range(40)])
STAND = 0.3
TAKE = 3.0
lock = threading.Lock()


def work():
    time.sleep(0.004)
    return "%d" % sum(range(20_000))


def take():
    time.sleep(TAKE)
    return "late"


def hold():
    with lock:
        time.sleep(STAND)


def stand():
    time.sleep(STAND)
    return "late"


def wait():
    threading.Thread(target=hold, daemon=True).start()
    time.sleep(0.01)
    with lock:
        return "late"


async def answer(path, sleep, in_thread):
    if path == "/rows":
        await sleep(0.005)
        return ROWS
    if path == "/sick/sleep":
        return stand()
    if path == "/sick/lock":
        return wait()
    if path in ("/work", "/sick/pool"):
        return await in_thread(work if path == "/work" else take)
    return "hello"


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            what = (await receive())["type"]
            await send({"type": what + ".complete"})
            if what == "lifespan.shutdown":
                return
    if "trio" in sys.modules:
        import trio

        body = await answer(scope["path"], trio.sleep, trio.to_thread.run_sync)
    else:
        body = await answer(scope["path"], asyncio.sleep, in_executor)
    body = body.encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def in_executor(function):
    return asyncio.get_running_loop().run_in_executor(None, function)


def wsgi():
    """Django's."""
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    settings.configure(SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])

    def handler(body):
        return lambda request: HttpResponse(body())

    sick = dict(sleep=stand, lock=wait, pool=take)
    bodies = {"": lambda: "hello", "rows": lambda: ROWS, "work": work}
    bodies.update(("sick/" + name, body) for name, body in sick.items())
    globals()["urlpatterns"] = [path(name, handler(body)) for name, body in bodies.items()]
    return get_wsgi_application()


def aiohttp_app(port):
    from aiohttp import web

    async def handler(request):
        return web.Response(text=await answer(request.path, asyncio.sleep, in_executor))

    app = web.Application()
    app.add_routes([web.get("/{path:.*}", handler)])
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def command(server, port):
    at = "127.0.0.1:%d" % port
    uvicorn = ["uvicorn", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    gunicorn = ["gunicorn", "-b", at, "--log-level", "warning", "-w", "2"]
    return {
        "gunicorn": [*gunicorn, "-k", "uvicorn.workers.UvicornWorker", "healthy:asgi"],
        "asyncio": [*uvicorn, "--loop", "asyncio", "--http", "h11", "healthy:asgi"],
        "uvloop": [*uvicorn, "--loop", "uvloop", "healthy:asgi"],
        "trio": ["hypercorn", "-k", "trio", "-b", at, "healthy:asgi"],
        "django": [*gunicorn, "--threads", "8", "healthy:wsgi()"],
    }[server]


def main(server):
    from account import say

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder = os.path.dirname(os.path.abspath(__file__))
    paths = [folder, os.environ.get("PYTHONPATH", "")]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths)))
    if server == "aiohttp":
        args = ["-c", "import healthy; healthy.aiohttp_app(%d)" % port]
    else:
        args = ["-m", *command(server, port)]
    child = subprocess.Popen(
        [sys.executable, *args], env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.poll() is None:
            try:
                urllib.request.urlopen("http://127.0.0.1:%d/" % port, timeout=5).read()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit("%s does not answer" % server)
        say(account="ready", pid=os.getpid(), server=child.pid, port=port)
        for _ in sys.stdin:
            pass
    finally:
        child.terminate()
        child.wait(30)


if __name__ == "__main__":
    main(sys.argv[1])
