"""A process with one thread for each way of waiting, watched inside a test guest."""
import os
import select
import socket
import sys
import threading
import time


def burn():
    while True:
        sum(range(10_000))


def sleep():
    while True:
        time.sleep(0.01)


def poll(end):
    poller = select.poll()
    poller.register(end, select.POLLIN)
    while True:
        poller.poll(20)


def ping(end):
    while True:
        end.send(b"x")
        end.recv(1)
        time.sleep(0.002)


def pong(end):
    while True:
        end.send(end.recv(1))


def lock(lock):
    while True:
        with lock:
            time.sleep(0.003)


def start(name, function, *arguments):
    threading.Thread(target=function, args=arguments, name=name, daemon=True).start()


left, right = socket.socketpair()
idle, _idle_peer = socket.socketpair()
shared = threading.Lock()
start("burn-1", burn)
start("burn-2", burn)
start("sleep", sleep)
start("poll", poll, idle)
start("ping", ping, left)
start("pong", pong, right)
start("lock-1", lock, shared)
start("lock-2", lock, shared)
print("python", sys.version.split()[0], "pid", os.getpid(), flush=True)
time.sleep(1)
print("ready", flush=True)
threading.Event().wait()
