"""A program that says in JSON which limiters or threads of a server it has, and then stays as it is.

What it has is its argument: `asyncio` or `trio` (limiters, anyio's), `waitress`, `cheroot`. One line on stdout;
it ends when its standard input is closed.
"""

import json
import logging
import os
import sys
import threading
import time

logging.disable()
release = threading.Event()
what = sys.argv[1]


def row(kind, prefix, workers, idle, most, queued):
    return {
        "kind": kind,
        "name_prefix": prefix,
        "workers": workers,
        "workers_idle": idle,
        "max_workers": most,
        "queued": queued,
    }


def tell(rows):
    print(json.dumps(rows), flush=True)
    sys.stdin.read()
    os._exit(0)


def limiter(one, prefix):
    said = one.statistics()
    most = None if said.total_tokens == float("inf") else said.total_tokens
    return row("Limiter", prefix, said.borrowed_tokens, 0, most, said.tasks_waiting)


def limiters():
    import anyio
    from anyio import to_thread

    async def main():
        own = anyio.CapacityLimiter(2)
        unlimited = anyio.CapacityLimiter(float("inf"))
        default = to_thread.current_default_thread_limiter()
        default.total_tokens = 5

        async def use(limiter):
            await to_thread.run_sync(release.wait, limiter=limiter)

        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(to_thread.run_sync, release.wait)
            for _ in range(9):
                group.start_soon(use, own)
            group.start_soon(use, unlimited)
            while threading.active_count() < 5 + 2 + 1 + 1:
                await anyio.sleep(0.01)
            await anyio.sleep(0.1)
            prefix = {"asyncio": "AnyIO worker thread", "trio": "Trio thread"}[what]
            # The last one has nobody who waits, so it is not met.
            rows = [limiter(default, prefix), limiter(own, None)]
            threading.Thread(target=tell, args=(rows,), daemon=True).start()
            await anyio.sleep(3600)

    anyio.run(main, backend=what)


def ask(port, count):
    """So many requests that are not answered."""
    import socket

    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        kept.append(connection)


kept = []
begun = threading.Semaphore(0)


def application(environ, start):
    begun.release()
    release.wait()
    start("200 OK", [])
    return [b""]


def serve(run, port, count, busy, said):
    threading.Thread(target=run, daemon=True).start()
    for _ in range(100):
        try:
            ask(port(), count)
            break
        except OSError:
            time.sleep(0.1)
    for _ in range(busy):
        begun.acquire()
    # What waits has been read when the last connection has been.
    time.sleep(0.5)
    tell([said])


def waitress_server():
    import waitress.server

    server = waitress.server.create_server(application, host="127.0.0.1", port=0, threads=4)
    said = row("Server", "waitress-", 4, 0, 4, 3)
    serve(server.run, lambda: server.effective_port, 7, 4, said)


def cheroot_server():
    from cheroot import wsgi

    server = wsgi.Server(("127.0.0.1", 0), application, numthreads=5, max=8)
    server.prepare()
    said = row("Server", "CP Server Thread-", 5, 2, 8, 0)
    serve(server.serve, lambda: server.bind_addr[1], 3, 3, said)


{
    "asyncio": limiters,
    "trio": limiters,
    "waitress": waitress_server,
    "cheroot": cheroot_server,
}[what]()
