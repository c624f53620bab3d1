"""Processes and loops that come and go in great numbers, one kind for each command.

usage: turnover.py

Each command names what is to be done and how often; the answer is this program's own account of it: what
it started, and how that ended.

{"do": "forks", "count": N, "over_s": S}   children that end at once, every tenth runs a loop before
{"do": "execs", "count": N}                children that run programs, a tenth of them Pythons, and chains of exec
{"do": "zombies", "count": N}              children that end, and are reaped by {"do": "reap"}
{"do": "namespaces", "count": N}           children of one id in a PID namespace of their own
{"do": "ids", "count": N}                  children that share one id, one after the other
{"do": "service", "count": N}              restarts of a service that has a thread and a loop
{"do": "loops", "count": N, "at_once": M}  threads that run a loop each
{"do": "threads", "count": N}              threads that wait until {"do": "release"}, which joins them
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

from account import commands, say

LAST_PID = "/proc/sys/kernel/ns_last_pid"
# Runs itself again as often as its argument says, under one process id.
CHAIN = 'if [ "$1" -gt 0 ]; then exec sh -c "$0" "$0" $(($1 - 1)); fi'
CHAIN_LENGTH = 50
# The first process of a PID namespace: all its children get the same id, which it says.
FIRST = """
import os, sys
for _ in range(int(sys.argv[1])):
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write("4242")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    print(pid, flush=True)
"""
# A program with a loop becomes one without.
BECOMES = """
import asyncio, os
async def briefly():
    await asyncio.gather(*(asyncio.sleep(0.01 * n) for n in range(60)))
asyncio.run(briefly())
os.execvp("true", ["true"])
"""
SERVICE = """
import asyncio, threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
async def serve():
    print("up", flush=True)
    while True:
        await asyncio.sleep(0.002)
asyncio.run(serve())
"""


async def briefly():
    await asyncio.sleep(0.001)


def fork(body=None):
    pid = os.fork()
    if pid == 0:
        if body:
            body()
        os._exit(0)
    return pid


def forks(count, over_s):
    begin = time.monotonic()
    for i in range(count):
        os.waitpid(fork((lambda: asyncio.run(briefly())) if i % 10 == 0 else None), 0)
        ahead = begin + over_s * (i + 1) / count - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
    return {"processes": count}


def execs(count):
    becoming = [subprocess.Popen([sys.executable, "-c", BECOMES]) for _ in range(5)]
    done, processes = 2 * len(becoming), len(becoming)
    while done < count:
        if processes % 100 == 50:
            steps = min(CHAIN_LENGTH, count - done)
            subprocess.run(["sh", "-c", CHAIN, CHAIN, str(steps - 1)], check=True)
            done += steps
        else:
            args = [sys.executable, "-S", "-c", "pass"] if processes % 10 == 0 else ["true"]
            subprocess.run(args, check=True)
            done += 1
        processes += 1
    for child in becoming:
        child.wait()
    return {"processes": processes}


def zombies(count):
    return {"processes": count, "pids": [fork() for _ in range(count)]}


def reap():
    reaped = 0
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return {"processes": reaped}
        reaped += 1


def namespaces(count):
    args = ["unshare", "--pid", "--fork", sys.executable, "-S", "-c", FIRST, str(count)]
    told = subprocess.run(args, check=True, stdout=subprocess.PIPE).stdout
    # unshare itself, and the first process of the namespace.
    return {"processes": count + 2, "pids": [int(line) for line in told.split()]}


def ids(count):
    pids = [fork()]
    os.waitpid(pids[0], 0)
    while len(pids) < count:
        with open(LAST_PID, "w") as last:
            last.write(str(pids[0] - 1))
        pids.append(fork())
        os.waitpid(pids[-1], 0)
    return {"processes": count, "pids": pids}


def service(count):
    for _ in range(count):
        with subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            child.kill()
            if child.wait() != -signal.SIGKILL:
                raise RuntimeError("the service ended by itself")
    return {"processes": count}


async def work(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(0.02)


def loops(count, at_once):
    tids = []
    for begin in range(0, count, at_once):
        seconds = 2 if at_once > 1 else 0.25
        batch = [
            threading.Thread(target=lambda: asyncio.run(work(seconds)))
            for _ in range(min(at_once, count - begin))
        ]
        for thread in batch:
            thread.start()
        tids.extend(thread.native_id for thread in batch)
        for thread in batch:
            thread.join()
    return {"tids": tids}


waiting, released = [], threading.Event()


def threads(count):
    threading.stack_size(64 << 10)
    for _ in range(count):
        waiting.append(threading.Thread(target=released.wait))
        waiting[-1].start()
    return {"threads": count}


def release():
    released.set()
    for thread in waiting:
        thread.join()
    return {"threads": len(waiting)}


KINDS = {
    kind.__name__: kind
    for kind in (forks, execs, zombies, reap, namespaces, ids, service, loops, threads, release)
}


def main():
    say(account="ready", pid=os.getpid())
    for command in commands():
        kind = command.pop("do")
        say(account=kind, **KINDS[kind](**command))
    os._exit(0)


main()
