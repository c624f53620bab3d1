"""A process with a known number of children, descriptors, threads and bytes, and one busy thread.

usage: process.py

Command {"clocks": [monotonic ns, ...]} is answered with the readings around each instant.
"""

import os
import resource
import signal
import subprocess
import threading
import time

from account import Clocks, commands, say, start

CLOCKS = Clocks()
FDS_LIMIT = 777


def busy():
    while True:
        deadline = time.monotonic_ns() + 200_000
        while time.monotonic_ns() < deadline:
            pass
        CLOCKS.sample_process()


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (FDS_LIMIT, hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(17)]
    block = bytearray(os.urandom(1024)) * (50 * 1024)
    children = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    # `; :` keeps the shell from replacing itself by its only command.
    children.append(
        subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait; :"], stdout=subprocess.PIPE)
    )
    grandchild = int(children[-1].stdout.readline())
    zombie = subprocess.Popen(["true"])
    event = threading.Event()
    idle = [start("idle-%d" % i, event.wait) for i in range(4)]
    start("busy", busy)
    time.sleep(0.3)
    say(
        account="ready",
        pid=os.getpid(),
        ppid=os.getppid(),
        children=[c.pid for c in children],
        grandchildren=[grandchild],
        zombies=[zombie.pid],
        threads_count=threading.active_count(),
        # One of those listed is the listing's own.
        fds_count=len(os.listdir("/proc/self/fd")) - 1,
        fds_limit=FDS_LIMIT,
        held=len(held) + len(block) + len(idle),
    )
    for command in commands():
        say(account="clocks", **CLOCKS.answer(command["clocks"]))
    for pid in [child.pid for child in children] + [grandchild]:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


main()
