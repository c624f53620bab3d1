"""Pools and servers of libraries that do their work: only those are sick that are full.

The argument says which. It tells its pid once it works.
"""

import contextlib
import os
import sys
import threading
import time
import urllib.request
import warnings

from account import say


def ready(*members, pid=None):
    say(account="ready", pid=pid or os.getpid(), members=list(members))


def application(environ, start_response, takes=0.005):
    time.sleep(takes)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


def slow(environ, start_response):
    return application(environ, start_response, 0.3)


def requests(port, clients=2):
    """A client now and then, so that threads have and have no work; or more of them than there are threads."""

    def client():
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read()
            time.sleep(0.05)

    for _ in range(clients):
        threading.Thread(target=client, daemon=True).start()


def waitress():
    import waitress.server

    server = waitress.server.create_server(application, host="127.0.0.1", port=0, threads=4)
    requests(server.effective_port)
    ready()
    server.run()


def full_waitress():
    import waitress.server

    server = waitress.server.create_server(slow, host="127.0.0.1", port=0, threads=2)
    requests(server.effective_port, 8)
    ready("all 2 workers")
    server.run()


def full_cheroot():
    from cheroot import wsgi

    server = wsgi.Server(("127.0.0.1", 0), slow, numthreads=2)
    server.prepare()
    requests(server.bind_addr[1], 8)
    ready("all 2 workers")
    server.serve()


def full_gthread():
    """One worker with two threads, of gunicorn's."""
    from gunicorn.app.base import BaseApplication

    class Server(BaseApplication):
        def load_config(self):
            for name, value in {
                "bind": "127.0.0.1:0",
                "worker_class": "gthread",
                "threads": 2,
                "loglevel": "critical",
                "post_worker_init": self.begin,
            }.items():
                self.cfg.set(name, value)

        def load(self):
            return slow

        def begin(self, worker):
            requests(worker.sockets[0].sock.getsockname()[1], 8)
            ready("all 2 workers", pid=os.getppid())

    Server().run()


def cheroot():
    from cheroot import wsgi

    server = wsgi.Server(("127.0.0.1", 0), application, numthreads=4)
    server.prepare()
    requests(server.bind_addr[1])
    ready()
    server.serve()


def gevent():
    import gevent

    pool = gevent.get_hub().threadpool
    ready()
    while True:
        pool.map(abs, range(6))
        gevent.sleep(0.3)


def celery(*options):
    """More is queued than its workers do: it fetches some of that ahead."""
    from celery import Celery, signals

    app = Celery("work", broker="memory://")
    app.conf.task_ignore_result = True
    app.conf.worker_redirect_stdouts = False

    @app.task
    def work():
        time.sleep(0.3)

    def client():
        while True:
            work.delay()
            time.sleep(0.08)

    @signals.worker_ready.connect
    def begin(**_):
        threading.Thread(target=client, daemon=True).start()
        os.dup2(stdout, 1)
        ready()

    # What it says before that is not for who reads the account.
    stdout = os.dup(1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    app.worker_main(["worker", "-c", "3", "-l", "ERROR", "--without-mingle", *options])


def celery_threads():
    celery("-P", "threads")


def dask():
    import distributed

    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=4, processes=False, dashboard_address=None
    )
    client = distributed.Client(cluster)
    client.gather(client.map(time.sleep, [0.01] * 4, pure=False))
    ready()
    while True:
        client.gather(client.map(time.sleep, [0.02] * 8, pure=False))
        time.sleep(0.3)


if __name__ == "__main__":
    os.environ.setdefault("C_FORCE_ROOT", "1")
    globals()[sys.argv[1]]()
