"""Threads that publish their own CPU clocks while they work: the truth for on-CPU time.

usage: clocks.py KIND...   (busy, sleeper, half-busy, pipe-pair, condition-pair)

Command {"clocks": [monotonic ns, ...]} is answered with the readings around each instant.
"""

import os
import sys
import threading
import time

from account import Clocks, commands, say, start, thread_list

CLOCKS = Clocks()
SAMPLE_EVERY_NS = 100_000


class Sampler:
    """Samples the calling thread's clock, and now and then the process's, at most this often."""

    def __init__(self):
        self.clock = CLOCKS.mine()
        self.next = 0
        self.turns = 0

    def tick(self):
        if time.monotonic_ns() >= self.next:
            self.clock.sample()
            CLOCKS.sample_process()
            self.next = time.monotonic_ns() + SAMPLE_EVERY_NS


def spin(until_ns, sampler):
    x = 0
    while time.monotonic_ns() < until_ns:
        for i in range(50):
            x += i * i
        sampler.tick()
    return x


def busy():
    sampler = Sampler()
    while True:
        spin(time.monotonic_ns() + 10_000_000, sampler)


def sleeper():
    sampler = Sampler()
    while True:
        sampler.clock.sample()
        CLOCKS.sample_process()
        time.sleep(0.001)
        sampler.clock.sample()


def half_busy():
    sampler = Sampler()
    while True:
        spin(time.monotonic_ns() + 5_000_000, sampler)
        sampler.clock.sample()
        CLOCKS.sample_process()
        time.sleep(0.005)
        sampler.clock.sample()


def pipe_player(read_fd, write_fd, serves):
    sampler = Sampler()
    if serves:
        os.write(write_fd, b"x")
    while True:
        os.read(read_fd, 1)
        sampler.tick()
        os.write(write_fd, b"x")


def condition_player(condition, turn, mine):
    sampler = Sampler()
    while True:
        with condition:
            while turn[0] != mine:
                condition.wait()
            turn[0] = 1 - mine
            condition.notify()
        sampler.tick()


def launch(kind):
    if kind == "busy":
        start("busy", busy)
    elif kind == "sleeper":
        start("sleeper", sleeper)
    elif kind == "half-busy":
        start("half-busy", half_busy)
    elif kind == "pipe-pair":
        a, b = os.pipe(), os.pipe()
        start("pipe-a", pipe_player, a[0], b[1], False)
        start("pipe-b", pipe_player, b[0], a[1], True)
    elif kind == "condition-pair":
        condition, turn = threading.Condition(), [0]
        start("condition-a", condition_player, condition, turn, 0)
        start("condition-b", condition_player, condition, turn, 1)
    else:
        raise SystemExit("unknown kind: " + kind)


def main():
    clock = CLOCKS.mine()
    for kind in sys.argv[1:]:
        launch(kind)
    time.sleep(0.1)
    clock.sample()
    CLOCKS.sample_process()
    say(account="ready", pid=os.getpid(), threads=thread_list())
    clock.sample()
    for command in commands():
        clock.sample()
        CLOCKS.sample_process()
        say(account="clocks", **CLOCKS.answer(command["clocks"]))
        clock.sample()
    os._exit(0)


main()
