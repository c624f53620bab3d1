"""A service whose workers come and go, and which says what all of them took.

usage: services.py

{"do": "mark"}                                   what follows counts from here
{"do": "restart", "count": N, "work_s": S}       N times eight workers, each on a CPU for so long
{"do": "short", "count": N}                      children that end at once
{"do": "id", "pid": P, "work_s": S}              a child with this id, on a CPU for so long
{"do": "tasks", "workers": N, "count": M}        workers that run so many tasks each, when they have lived for a while

The answer has the CPU time of this process and of all its children since the mark, by the kernel's own count,
how many children there were, and how many tasks they made.
"""

import asyncio
import os
import resource
import time

from account import commands, say

LAST_PID = "/proc/sys/kernel/ns_last_pid"
WORKERS = 8
# Until then, whoever watches has seen that they were made.
BEFORE_TASKS_S = 0.5

total = {"children": 0, "tasks": 0}
begin_ns = 0


def cpu_ns():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time_ns() + round((children.ru_utime + children.ru_stime) * 1e9)


def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def fork(body):
    pid = os.fork()
    if pid == 0:
        body()
        os._exit(0)
    total["children"] += 1
    return pid


def together(bodies):
    for pid in [fork(body) for body in bodies]:
        os.waitpid(pid, 0)


def mark():
    global begin_ns
    begin_ns = cpu_ns()
    total.update(children=0, tasks=0)


def restart(count, work_s):
    for _ in range(count):
        together([lambda: spin(work_s)] * WORKERS)


def short(count):
    for _ in range(count):
        together([lambda: None])


def id(pid, work_s):
    for _ in range(50):
        with open(LAST_PID, "w") as last:
            last.write(str(pid - 1))
        # Only the one that got the id works.
        child = fork(lambda: os.getpid() == pid and spin(work_s))
        os.waitpid(child, 0)
        if child == pid:
            return
    raise RuntimeError(f"the id {pid} is somebody else's")


async def one():
    await asyncio.sleep(0)


async def many(count):
    for _ in range(count):
        await asyncio.create_task(one())


def work(count):
    time.sleep(BEFORE_TASKS_S)
    asyncio.run(many(count))


def tasks(workers, count):
    together([lambda: work(count)] * workers)
    total["tasks"] += workers * count


def main():
    say(account="ready", pid=os.getpid())
    for command in commands():
        globals()[command.pop("do")](**command)
        say(account="done", cpu_ns=cpu_ns() - begin_ns, **total)
    os._exit(0)


main()
