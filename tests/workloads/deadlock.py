"""Two threads that each hold a lock and want the other's.

usage: deadlock.py          says which threads when both wait
"""

import os
import threading
import time

from account import commands, say

first = threading.Lock()
second = threading.Lock()
both_hold = threading.Barrier(2)


def transfer():
    with first:
        both_hold.wait()
        with second:
            pass


def refund():
    with second:
        both_hold.wait()
        with first:
            pass


def main():
    threads = [
        threading.Thread(target=target, name=target.__name__, daemon=True)
        for target in (transfer, refund)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    say(account="ready", pid=os.getpid(), tids=[t.native_id for t in threads])
    for command in commands():
        pass
    os._exit(0)


main()
