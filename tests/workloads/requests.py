"""A server of HTTP requests that keeps its own account of them.

usage: requests.py KIND [--every SECONDS] [--length SECONDS]

KIND: h11 and httptools (both uvicorn), aiohttp, sync and gthread (both gunicorn), threads (http.server).
/fast answers at once, /slow after 20 ms, /held/one, /held/two and /held/three not soon; all else is not found. With --every, the loop of an asynchronous server is
blocked once in so many seconds, for --length. A command on stdin: says how many requests were answered, by path and
status, how long the handler took for each of /slow, ns, and which thread, and task, serves those that are held.
"""

import argparse
import asyncio
import multiprocessing
import os
import socket
import threading
import time

from account import commands, say

PAUSE = 0.02
MOST = 100_000
# Workers of gunicorn are other processes.
counts = {
    "/fast 200": multiprocessing.Value("L"),
    "/slow 200": multiprocessing.Value("L"),
    "/other 404": multiprocessing.Value("L"),
}
durations = multiprocessing.Array("L", MOST)
own = multiprocessing.Value("L")
HELD = ["/held/one", "/held/two", "/held/three"]
HOLD = 30
held_by = multiprocessing.Array("L", len(HELD))
held_tasks = {}


def status_of(path):
    return 200 if path in ("/fast", "/slow") else 404


def count(path, begin_ns):
    """The handler is about to answer."""
    took = time.monotonic_ns() - begin_ns
    status = status_of(path)
    counter = counts["%s %d" % (path if status == 200 else "/other", status)]
    with counter.get_lock():
        if path == "/slow" and counter.value < MOST:
            durations[counter.value] = took
        counter.value += 1


def hold(path):
    """Serves a request that is held, in a thread."""
    held_by[HELD.index(path)] = threading.get_native_id()
    time.sleep(HOLD)


async def hold_task(path):
    """The same in a task."""
    held_by[HELD.index(path)] = threading.get_native_id()
    held_tasks[path] = asyncio.current_task().get_name()
    await asyncio.sleep(HOLD)


def listen(port):
    say(account="ready", pid=os.getpid(), port=port)
    for _ in commands():
        slow = counts["/slow 200"].value
        say(
            account="served",
            counts={name: counter.value for name, counter in counts.items()},
            slow_ns=list(durations[: min(slow, MOST)]),
            own=own.value,
            held_by=dict(zip(HELD, held_by)),
            held_tasks=held_tasks,
        )
    os._exit(0)


def block(options):
    """Blocks the running loop from time to time."""

    def again():
        time.sleep(options.length)
        asyncio.get_running_loop().call_later(options.every, again)

    if options.every:
        asyncio.get_running_loop().call_later(options.every, again)


def listener():
    # Whose connections asyncio sends at once: without a protocol it does not set TCP_NODELAY.
    sock = socket.socket(proto=socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(512)
    return sock


def run_uvicorn(options):
    import uvicorn

    async def application(scope, receive, send):
        begin = time.monotonic_ns()
        path = scope["path"]
        if path in HELD:
            await hold_task(path)
        if path == "/slow":
            await asyncio.sleep(PAUSE)
        count(path, begin)
        body = b"hello"
        await send(
            {
                "type": "http.response.start",
                "status": status_of(path),
                "headers": [(b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": body})

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            block(options)
            port = sockets[0].getsockname()[1]
            threading.Thread(target=listen, args=(port,), daemon=True).start()
            asyncio.ensure_future(self.tell())

        async def tell(self):
            while True:
                own.value = self.server_state.total_requests
                await asyncio.sleep(0.05)

    config = uvicorn.Config(
        application, http=options.kind, log_level="critical", access_log=False, lifespan="off"
    )
    Server(config).run(sockets=[listener()])


def run_aiohttp(options):
    from aiohttp import web

    async def handle(request):
        begin = time.monotonic_ns()
        path = request.path
        if path in HELD:
            await hold_task(path)
        if path == "/slow":
            await asyncio.sleep(PAUSE)
        count(path, begin)
        return web.Response(status=status_of(path), text="hello")

    async def main():
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        sock = listener()
        await web.SockSite(runner, sock).start()
        block(options)
        threading.Thread(target=listen, args=(sock.getsockname()[1],), daemon=True).start()
        while True:
            own.value = runner.server.requests_count
            await asyncio.sleep(0.05)

    asyncio.run(main())


def wsgi(environ, start_response):
    begin = time.monotonic_ns()
    path = environ["PATH_INFO"]
    if path in HELD:
        hold(path)
    if path == "/slow":
        time.sleep(PAUSE)
    count(path, begin)
    status = {200: "200 OK", 404: "404 Not Found"}[status_of(path)]
    start_response(status, [("Content-Length", "5")])
    return [b"hello"]


def run_gunicorn(options):
    from gunicorn.app.base import BaseApplication

    sock = listener()
    port = sock.getsockname()[1]

    class Application(BaseApplication):
        def load_config(self):
            for name, value in {
                "bind": "fd://%d" % sock.fileno(),
                "worker_class": options.kind,
                "workers": 2,
                "threads": 4 if options.kind == "gthread" else 1,
                "loglevel": "critical",
                "when_ready": lambda server: threading.Thread(
                    target=listen, args=(port,), daemon=True
                ).start(),
            }.items():
                self.cfg.set(name, value)

        def load(self):
            return wsgi

    Application().run()


def run_threads(options):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            begin = time.monotonic_ns()
            if self.path in HELD:
                hold(self.path)
            if self.path == "/slow":
                time.sleep(PAUSE)
            count(self.path, begin)
            self.send_response(status_of(self.path))
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 512
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=listen, args=(server.server_address[1],), daemon=True).start()
    server.serve_forever()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--every", type=float, default=0)
    parser.add_argument("--length", type=float, default=0.2)
    options = parser.parse_args()
    run = {
        "h11": run_uvicorn,
        "httptools": run_uvicorn,
        "aiohttp": run_aiohttp,
        "sync": run_gunicorn,
        "gthread": run_gunicorn,
        "threads": run_threads,
    }[options.kind]
    run(options)


main()
