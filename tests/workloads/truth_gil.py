"""Threads that fight for the GIL, or let it lie, as they are told; account: who may have it.

Commands on standard input, each answered by a line: `sleep` (nobody runs), `spin` (one thread does),
`fight` (two do), `exchange N` (two threads take turns N times each, then nobody runs).
"""

import json
import os
import sys
import threading

# Which threads run Python code, and a bell for those that are to begin.
spinning = 0
bell = threading.Condition()


def spins(number):
    x = 0
    while True:
        with bell:
            while spinning <= number:
                bell.wait()
        while spinning > number:
            for i in range(1000):
                x = (x + i * i) % 1000003


def spin(count):
    global spinning
    with bell:
        spinning = count
        bell.notify_all()


def exchange(turns):
    """Each turn of each thread needs the other one to have run before."""
    mine, theirs = threading.Lock(), threading.Lock()
    mine.acquire()
    theirs.acquire()

    def answers():
        for _ in range(turns):
            theirs.acquire()
            mine.release()

    thread = threading.Thread(target=answers)
    thread.start()
    for _ in range(turns):
        theirs.release()
        mine.acquire()
    thread.join()


def main():
    spinners = [threading.Thread(target=spins, args=(n,), daemon=True) for n in range(2)]
    for thread in spinners:
        thread.start()
    print(json.dumps({"spinners": [t.native_id for t in spinners]}), flush=True)
    for line in sys.stdin:
        command, _, number = line.strip().partition(" ")
        if command == "exchange":
            exchange(int(number))
        else:
            spin({"sleep": 0, "spin": 1, "fight": 2}[command])
        print(json.dumps(command), flush=True)
    os._exit(0)


main()
