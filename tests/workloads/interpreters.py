"""Threads that run other interpreters: one computes, one has a loop, one rests in an interpreter that the main thread has
made, and in each of several two fight for its GIL.

usage: interpreters.py OWN FIGHTS

OWN is `own` for GILs of their own, `shared` for the main one's. FIGHTS: interpreters in which two fight.
"""

import os
import sys
import threading
import time

from account import say

if sys.version_info >= (3, 13):
    import _interpreters as interpreters

    def create(own):
        return interpreters.create("isolated" if own else "legacy")
else:
    import _xxsubinterpreters as interpreters

    def create(own):
        if sys.version_info >= (3, 12):
            return interpreters.create(isolated=own)
        if sys.version_info >= (3, 9):
            return interpreters.create(isolated=False)
        return interpreters.create()


COMPUTES = """
def computes_inside():
    while True:
        sum(range(10000))

computes_inside()
"""
LOOPS = """
import asyncio, time

async def blocks_inside():
    while True:
        time.sleep(0.05)
        await asyncio.sleep(0.05)

asyncio.run(blocks_inside())
"""
RESTS = """
import time

def rests_inside():
    while True:
        time.sleep(0.05)

rests_inside()
"""
FIGHTS = """
import threading

def fights_inside():
    while True:
        sum(range(1000))

threading.Thread(target=fights_inside).start()
fights_inside()
"""

own = sys.argv[1] == "own"
sources = [("computes", COMPUTES), ("loops", LOOPS)]
sources += [("fights-%d" % number, FIGHTS) for number in range(int(sys.argv[2]))]
tids = {}


# Up to 3.12, an interpreter's thread state says that it is of the thread that has created it.
def run(source, made=None):
    interpreters.run_string(create(own) if made is None else made, source)


rests = threading.Thread(target=run, args=(RESTS, create(own)), name="rests", daemon=True)
rests.start()
tids["rests"] = rests.native_id
for name, source in sources:
    thread = threading.Thread(target=run, args=(source,), name=name, daemon=True)
    thread.start()
    tids[name] = thread.native_id
time.sleep(1)
say(account="ready", pid=os.getpid(), tids=tids)
sys.stdin.read()
os._exit(0)
