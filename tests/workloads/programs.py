"""Programs as people run them, driven from their start to their end; the account is what they did.

The first argument is the program. With `now` as the second one it runs at once, else at the command
`run`. In each of its processes a loop makes tasks all the time, so that probes of these are met at
every moment: while it forks, runs another program, is stopped, and is killed.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from account import commands, say

PATIENCE = 60
BUSY = """
import asyncio, os, threading

async def short():
    await asyncio.sleep(0)

async def spin():
    while True:
        await asyncio.gather(*[asyncio.ensure_future(short()) for _ in range(5)])
        await asyncio.sleep(0.002)

def start():
    threading.Thread(target=lambda: asyncio.new_event_loop().run_until_complete(spin()), daemon=True).start()

os.register_at_fork(after_in_child=start)
start()
"""
WEB = """
import os

ANSWER = "one"

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [("%s %d" % (ANSWER, os.getpid())).encode()]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            what = (await receive())["type"]
            await send({"type": what + ".complete"})
            if what == "lifespan.shutdown":
                return
    head = {"type": "http.response.start", "status": 200, "headers": []}
    await send(head)
    body = ("%s %d" % (ANSWER, os.getpid())).encode()
    await send({"type": "http.response.body", "body": body})
"""
CELERY = """
from celery import Celery

app = Celery("work", broker="filesystem://", backend="file://%(folder)s/results")
app.conf.broker_transport_options = {
    "data_folder_in": "%(folder)s/queue",
    "data_folder_out": "%(folder)s/queue",
    "control_folder": "%(folder)s/control",
}

@app.task
def add(a, b):
    return a + b
"""

folder = tempfile.TemporaryDirectory()


def put(name, text):
    path = os.path.join(folder.name, name)
    with open(path, "w") as file:
        file.write(text)
    return path


def environment():
    paths = [folder.name, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    # Warnings about forks have process ids in them.
    return dict(os.environ, PYTHONPATH=path, PYTHONWARNINGS="ignore", C_FORCE_ROOT="1")


def start(*args):
    log = open(os.path.join(folder.name, "log"), "w")
    return subprocess.Popen(
        [sys.executable, *args], cwd=folder.name, env=environment(), stdout=log, stderr=log
    )


def run(*args):
    done = subprocess.run(
        [sys.executable, *args],
        cwd=folder.name,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    return done.returncode, done.stdout


def until(what, found):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(0.05)
    with open(os.path.join(folder.name, "log")) as log:
        raise SystemExit("no %s: %s" % (what, log.read()[-2000:]))


def end(process):
    process.terminate()
    return process.wait(PATIENCE)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def get(port):
    try:
        with urllib.request.urlopen("http://127.0.0.1:%d/" % port, timeout=5) as answer:
            return answer.read().decode().split()
    except OSError:
        return None


def pip():
    outcomes = []
    for kind in ["--only-binary", "--no-binary"]:
        where = os.path.join(folder.name, kind)
        options = ["--quiet", "--disable-pip-version-check", "--no-cache-dir", "--target", where]
        code, said = run("-m", "pip", "install", *options, kind, "six", "six==1.16.0")
        if "No matching distribution" in said or "Connection" in said:
            return {"skip": said.strip().splitlines()[-1]}
        files = sorted(os.listdir(where)) if os.path.isdir(where) else said
        outcomes.append([code, [name for name in files if "egg" not in name and "dist" not in name]])
    return {"pip": outcomes}


def answers(port, count=40):
    found = [until("answer", lambda: get(port)) for _ in range(count)]
    return len(found), {pid for _, pid in found}


def gunicorn(*options):
    put("web_app.py", WEB)
    port = free_port()
    server = start("-m", "gunicorn", "-w", "2", "-b", "127.0.0.1:%d" % port, *options)
    count, before = answers(port)
    server.send_signal(signal.SIGHUP)
    until("new worker", lambda: (get(port) or [0, 0])[1] not in {*before, 0})
    # Old workers may still answer a little while.
    until("new workers alone", lambda: not before & answers(port, 10)[1])
    count += answers(port)[0]
    return {"answers": count, "code": end(server)}


def uvicorn(*options):
    path = put("web_app.py", WEB)
    port = free_port()
    server = start("-m", "uvicorn", "web_app:asgi", "--port", str(port), *options)
    count, _ = answers(port)
    if "--reload" in options:
        # Times of files are compared.
        time.sleep(1)
        put("web_app.py", WEB.replace('"one"', '"another"'))
        until("new program", lambda: (get(port) or [0])[0] == "another")
        count += answers(port)[0]
    return {"answers": count, "code": end(server)}


def celery(*options):
    for name in ["queue", "results", "control"]:
        os.mkdir(os.path.join(folder.name, name))
    put("work.py", CELERY % {"folder": folder.name})
    worker = start("-m", "celery", "-A", "work", "worker", "-c", "2", *options)
    ask = "from work import add; print([r.get(timeout=60) for r in [add.delay(i, i) for i in range(20)]])"
    code, said = run("-c", ask)
    return {"sums": said.strip().splitlines()[-1:], "asked": code, "code": end(worker)}


SECCOMP = """
import asyncio, ctypes, struct, sys

# BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JGE|BPF_K, BPF_RET|BPF_K (linux/bpf_common.h, linux/seccomp.h)
LOAD, AT_LEAST, RETURN = 0x20, 0x35, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
# Between the last old number and the first new one there are those of probes alone (x86-64).
PROGRAMS = {
    "all": [(RETURN, 0, 0, ALLOW)],
    "strict": [
        (LOAD, 0, 0, 0), (AT_LEAST, 0, 2, 335), (AT_LEAST, 1, 0, 424), (RETURN, 0, 0, KILL),
        (RETURN, 0, 0, ALLOW),
    ],
}
program = PROGRAMS[sys.argv[1]]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
assert libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
assert libc.prctl(SECCOMP, FILTER, head) == 0, ctypes.get_errno()

async def short():
    await asyncio.sleep(0)

async def main():
    for _ in range(300):
        await asyncio.gather(*[asyncio.ensure_future(short()) for _ in range(20)])
        await asyncio.sleep(0.002)
asyncio.run(main())
print("filtered")
"""


def seccomp(kind):
    return dict(zip(["code", "said"], run("-c", SECCOMP, kind)))


GREENLETS = """
import asyncio, greenlet

leave, enter = asyncio.tasks._leave_task, asyncio.tasks._enter_task

def nested(depth):
    # The stack is as deep as that where the other side goes on.
    return nested(depth - 1) if depth else greenlet.getcurrent().parent.switch(1)

async def within(index):
    child = greenlet.greenlet(nested)
    value = child.switch(index % 7)
    await asyncio.sleep(0)
    child.switch(value)
    return value

def aside(of):
    # Leaves a step in the middle, for the other loop's.
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    leave(loop, task)
    asyncio._set_running_loop(None)
    of.switch()
    asyncio._set_running_loop(loop)
    enter(loop, task)

async def step(of):
    await asyncio.sleep(0)
    aside(of[0])
    await asyncio.sleep(0)

async def steps(of, count):
    for _ in range(count):
        await asyncio.gather(*[asyncio.ensure_future(step(of)) for _ in range(3)])

def loop_of(of, count):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(steps(of, count))
    loop.close()
    ended.append(count)

ended = []
main = greenlet.getcurrent()
print(sum(asyncio.new_event_loop().run_until_complete(within(i)) for i in range(500)))
one, other = [], []
first = greenlet.greenlet(lambda: loop_of(one, 300))
second = greenlet.greenlet(lambda: loop_of(other, 300))
one.append(second)
other.append(first)
while not (first.dead and second.dead):
    for side in (first, second):
        if not side.dead:
            side.switch()
print(ended)
"""


def greenlets():
    return dict(zip(["code", "said"], run("-c", GREENLETS)))


SQLALCHEMY = """
import asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

async def one(engine, index):
    async with engine.connect() as connection:
        return (await connection.execute(text("select %d" % index))).scalar()

async def main():
    engine = create_async_engine("sqlite+aiosqlite://")
    total = 0
    for turn in range(20):
        total += sum([await one(engine, index) for index in range(20)])
    await engine.dispose()
    print(total)
asyncio.run(main())
"""


def sqlalchemy():
    return dict(zip(["code", "said"], run("-c", SQLALCHEMY)))


RUNS_ANOTHER = """
import os, sys, time
left = int(sys.argv[1])
time.sleep(0.3)
if left:
    os.execv(sys.executable, [sys.executable, *sys.orig, str(left - 1)])
print("the last one")
"""


def execs():
    path = put("again.py", RUNS_ANOTHER.replace("*sys.orig", "__file__"))
    return dict(zip(["code", "said"], run(path, "5")))


FORKS = """
import os, time
time.sleep(0.3)
codes = []
for turn in range(10):
    child = os.fork()
    if child == 0:
        time.sleep(0.05)
        os._exit(turn)
    codes.append(os.waitpid(child, 0)[1])
print(codes)
"""


def forks():
    return dict(zip(["code", "said"], run("-c", FORKS)))


def ends():
    """Every way to end in the middle of steps."""
    codes = []
    for _ in range(4):
        codes.append(run("-c", "import os, time; time.sleep(0.3); os._exit(7)")[0])
        child = start("-c", "import time; time.sleep(60)")
        time.sleep(0.3)
        child.kill()
        codes.append(child.wait())
        code = "import sys, time; time.sleep(0.3); sys.exit(3)"
        codes.append(run("-c", code)[0])
    return {"codes": codes}


PROGRAMS = {
    "pip": pip,
    "gunicorn-sync": lambda: gunicorn("web_app:app"),
    "gunicorn-gthread": lambda: gunicorn("-k", "gthread", "--threads", "4", "web_app:app"),
    "gunicorn-uvicorn": lambda: gunicorn("-k", "uvicorn.workers.UvicornWorker", "web_app:asgi"),
    "uvicorn": lambda: uvicorn(),
    "uvicorn-reload": lambda: uvicorn("--reload"),
    "uvicorn-workers": lambda: uvicorn("--workers", "2"),
    "celery": celery,
    "celery-threads": lambda: celery("-P", "threads"),
    "seccomp": lambda: seccomp("all"),
    "seccomp-strict": lambda: seccomp("strict"),
    "greenlets": greenlets,
    "sqlalchemy": sqlalchemy,
    "execs": execs,
    "forks": forks,
    "ends": ends,
}


def main():
    program = PROGRAMS[sys.argv[1]]
    put("sitecustomize.py", BUSY)
    if sys.argv[2:] != ["now"]:
        say(account="ready", pid=os.getpid())
        next(commands())
    say(account="ran", **program())


main()
