"""Threads that are parked, do an exact number of cycles when told to, and are parked again.

usage: burst.py [KIND...]   (sleepers, pipe-pair; default both)

Command {"burst": N}: N cycles of each thread; the answer comes when all are parked again.
So whatever the kernel counts for them happened between the command and the answer.
"""

import os
import sys
import threading
import time

from account import commands, say, start, thread_list


class Parked:
    """A thread that waits for a number of cycles, runs them, and waits again."""

    def __init__(self, name, cycle):
        self.cycle = cycle
        self.go = threading.Lock()
        self.go.acquire()
        self.done = threading.Semaphore(0)
        self.cycles = 0
        self.thread = start(name, self.run)

    def run(self):
        while True:
            self.go.acquire()
            for _ in range(self.cycles):
                self.cycle()
            self.done.release()


def sleep_cycle():
    time.sleep(0.001)


def pipe_cycle(read_fd, write_fd, serves):
    def cycle():
        if serves:
            os.write(write_fd, b"x")
            os.read(read_fd, 1)
        else:
            os.read(read_fd, 1)
            os.write(write_fd, b"x")

    return cycle


def main():
    kinds = sys.argv[1:] or ["sleepers", "pipe-pair"]
    parked = []
    if "sleepers" in kinds:
        parked.append(Parked("sleeper-1", sleep_cycle))
        parked.append(Parked("sleeper-2", sleep_cycle))
    if "pipe-pair" in kinds:
        a, b = os.pipe(), os.pipe()
        parked.append(Parked("pipe-a", pipe_cycle(a[0], b[1], False)))
        parked.append(Parked("pipe-b", pipe_cycle(b[0], a[1], True)))
    # It never has a reason to run.
    start("idle", threading.Event().wait)
    time.sleep(0.2)
    say(account="ready", pid=os.getpid(), threads=thread_list())
    for command in commands():
        for one in parked:
            one.cycles = command["burst"]
        for one in parked:
            one.go.release()
        for one in parked:
            one.done.acquire()
        time.sleep(0.1)
        say(account="burst", cycles=command["burst"])
    os._exit(0)


main()
