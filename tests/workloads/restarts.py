"""Threads in calls with a time, which go on as `restart_syscall` once they have been stopped.

usage: restarts.py
"""

import ctypes
import os
import platform
import queue
import select
import socket
import sys
import threading
import time

from account import say

HOUR_S = 3600
ours, theirs = socket.socketpair()
many = [socket.socketpair() for _ in range(64)]
pairs = [socket.socketpair() for _ in range(9)]


def polls(sockets):
    poll = select.poll()
    for one in sockets:
        poll.register(one, select.POLLIN)
    poll.poll(HOUR_S * 1000)


def receives():
    ours.settimeout(HOUR_S)
    ours.recv(1)


def contends():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=HOUR_S)


libc = ctypes.CDLL(None)
# As the C library of Alpine waits, and other ones once slept.
NANOSLEEP, FUTEX = {"aarch64": (101, 98)}.get(platform.machine(), (35, 202))
FUTEX_WAIT_PRIVATE = 128


def sleeps_raw(rest):
    libc.syscall(NANOSLEEP, (ctypes.c_long * 2)(HOUR_S, 0), rest)


def contends_raw():
    time_s = (ctypes.c_long * 2)(HOUR_S, 0)
    libc.syscall(FUTEX, (ctypes.c_int * 1)(0), FUTEX_WAIT_PRIVATE, 0, time_s, 0, 0)


def watches():
    epoll = select.epoll()
    epoll.register(ours, select.EPOLLIN)
    epoll.poll(HOUR_S)


EXPECTED = []
for cause, name, target in [
    ("poll", "polls one", lambda: polls([ours])),
    # As many as the number of an operation on futexes.
    ("poll", "polls nine", lambda: polls([one for one, _ in pairs])),
    ("poll", "polls 128", lambda: polls([one for pair in many for one in pair])),
    ("poll", "receives", receives),
    ("poll", "watches", watches),
    ("lock", "contends", contends),
    ("lock", "queues", lambda: queue.Queue().get(timeout=HOUR_S)),
    ("lock", "waits", lambda: threading.Event().wait(HOUR_S)),
    ("lock", "contends raw", contends_raw),
    ("sleep", "sleeps", lambda: time.sleep(HOUR_S)),
    ("sleep", "sleeps raw", lambda: sleeps_raw(None)),
    ("sleep", "sleeps for a rest", lambda: sleeps_raw((ctypes.c_long * 2)())),
]:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    EXPECTED.append({"tid": thread.native_id, "name": name, "cause": cause})
time.sleep(0.3)
say(account="ready", pid=os.getpid(), expected=EXPECTED)
sys.stdin.read()
os._exit(0)
