"""One of several programs, told apart by the words of its command line.

usage: selected.py WORD... [--child] [--fork]

It runs an asyncio loop, and a thread of its own that is called after the first word. With --child it starts itself
once more after a while, with WORD-child. With --fork it forks then. It ends when its parent does.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

PR_SET_PDEATHSIG = 1


def work():
    while True:
        deadline = time.monotonic() + 0.005
        while time.monotonic() < deadline:
            pass
        time.sleep(0.02)


async def loop():
    while True:
        await asyncio.sleep(0.05)


def main():
    words = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if "--fork" in words:
        threading.Timer(1.5, fork).start()
    threading.Thread(target=work, name=words[0], daemon=True).start()
    if "--child" in words:
        time.sleep(1.5)
        subprocess.Popen([sys.executable, sys.argv[0], words[0] + "-child"])
    asyncio.run(loop())


def fork():
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        threading.current_thread().name = "forked"
        work()


main()
