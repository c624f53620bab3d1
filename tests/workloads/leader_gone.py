"""The first thread ends before the others do.

usage: leader_gone.py
"""

import ctypes
import os
import sys
import threading
import time

from account import say

SYS_EXIT = {"x86_64": 60, "aarch64": 93}


def works():
    while True:
        sum(range(10000))
        time.sleep(0.005)


def ends_with_stdin():
    sys.stdin.read()
    os._exit(0)


for number in range(3):
    threading.Thread(target=works, name="worker-%d" % number).start()
threading.Thread(target=ends_with_stdin, name="waits", daemon=True).start()
say(account="ready", pid=os.getpid())
# Only this thread; the system call is made without the GIL.
ctypes.CDLL(None).syscall(SYS_EXIT[os.uname().machine], 0)
