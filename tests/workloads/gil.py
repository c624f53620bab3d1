"""CPU-bound threads that fight for the GIL.

usage: gil.py THREADS
"""

import os
import sys
import time

from account import commands, say, start


def burn():
    x = 0
    while True:
        for i in range(1000):
            x = (x + i * i) % 1000003


def main():
    fighters = [start("burns-%d" % i, burn) for i in range(int(sys.argv[1]))]
    time.sleep(0.2)
    say(account="ready", pid=os.getpid(), fighters=[t.native_id for t in fighters])
    for _ in commands():
        pass
    os._exit(0)


main()
