"""One thread computes in Python, others do short I/O and time how long they wait for the GIL.

usage: gil_wait.py LIBRARY VICTIMS

A victim calls a C function that sleeps without the GIL and reads the clock at its end; Python reads
the same clock directly after. `hog` seconds: the hog computes for so long, then everybody rests.
`hold`: another C function call of the hog keeps the GIL while it sleeps.
"""

import ctypes
import os
import sys
import threading
import time

from account import commands, say, start

NAP_NS = 2_000_000

released = ctypes.CDLL(sys.argv[1]).nap
held = ctypes.PyDLL(sys.argv[1]).nap
for function in released, held:
    function.restype = ctypes.c_int64
    function.argtypes = [ctypes.c_int64]

running = True
hogging = 0.0
holding = 0


class Account:
    def __init__(self):
        self.wait_ns = 0
        self.count = 0
        self.longest_ns = 0


def victim(account):
    clock = time.monotonic_ns
    while running:
        woke = released(NAP_NS)
        waited = clock() - woke
        account.wait_ns += waited
        account.count += 1
        account.longest_ns = max(account.longest_ns, waited)


def hog():
    global holding
    while running:
        x = 0
        while time.monotonic() < hogging:
            for i in range(1000):
                x = (x + i * i) % 1000003
        if holding:
            ns, holding = holding, 0
            held(ns)
        released(10_000_000)


def main():
    global hogging, holding, running
    accounts = [Account() for _ in range(int(sys.argv[2]))]
    # What the calls themselves take, alone.
    alone = Account()
    for _ in range(200):
        woke = released(100_000)
        alone.wait_ns += time.monotonic_ns() - woke
    victims = [start("victim-%d" % i, lambda a=a: victim(a)) for i, a in enumerate(accounts)]
    culprit = start("hog", hog)
    time.sleep(0.2)
    say(account="ready", pid=os.getpid(), hog=culprit.native_id)
    for command in commands():
        if "hog" in command:
            hogging = time.monotonic() + command["hog"]
            while time.monotonic() < hogging:
                released(50_000_000)
            if command.get("hold"):
                holding = int(command["hold"] * 1e9)
                while holding:
                    released(5_000_000)
                released(int(command["hold"] * 1e9) + 100_000_000)
            running = False
            for thread in victims:
                thread.join()
            say(
                account="waited",
                call_ns=alone.wait_ns // 200,
                victims=[
                    {"tid": t.native_id, "wait_ns": a.wait_ns, "count": a.count, "longest_ns": a.longest_ns}
                    for t, a in zip(victims, accounts)
                ],
            )


main()
