"""A service with one worker, which somebody kills.

usage: killed.py

{"do": "kill", "count": N}    the worker is killed N times, and made anew each time; the answer has the last two ids
"""

import os
import signal
import time

from account import commands, say


def handle_order():
    until = time.process_time() + 0.005
    while time.process_time() < until:
        pass
    time.sleep(0.01)


def fork():
    pid = os.fork()
    if pid == 0:
        while True:
            handle_order()
    return pid


def main():
    worker = fork()
    say(account="ready", pid=os.getpid(), worker=worker)
    for command in commands():
        killed = None
        for _ in range(command["count"]):
            killed = worker
            os.kill(killed, signal.SIGKILL)
            os.waitpid(killed, 0)
            worker = fork()
            time.sleep(0.01)
        say(account="done", killed=killed, worker=worker)
    os.kill(worker, signal.SIGKILL)
    os._exit(0)


main()
