"""Many short threads and short child processes, all inside one command.

usage: churn.py

Command {"threads": N, "processes": M}: the answer lists every thread with its own CPU clock
at its end, and every child's pid.
"""

import os
import subprocess
import threading
import time

from account import commands, say

AT_ONCE = 20


def brief(ended):
    x = 0
    until = time.monotonic_ns() + 500_000
    while time.monotonic_ns() < until:
        x += 1
    time.sleep(0.0005)
    ended.append([threading.get_native_id(), time.thread_time_ns()])


def churn_threads(count):
    ended = []
    for begin in range(0, count, AT_ONCE):
        batch = [
            threading.Thread(target=brief, args=(ended,))
            for _ in range(min(AT_ONCE, count - begin))
        ]
        for thread in batch:
            thread.start()
        for thread in batch:
            thread.join()
    return ended


def churn_processes(count):
    pids = []
    for i in range(count):
        if i % 2:
            child = subprocess.Popen(["true"])
            child.wait()
            pids.append(child.pid)
        else:
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            pids.append(pid)
    return pids


def main():
    say(account="ready", pid=os.getpid())
    for command in commands():
        began = time.monotonic_ns()
        threads = churn_threads(command["threads"])
        pids = churn_processes(command["processes"])
        say(
            account="churn",
            began_ns=began,
            ended_ns=time.monotonic_ns(),
            threads=threads,
            processes=pids,
        )
    os._exit(0)


main()
