"""What is easily missed or cut: steps of generators that run, many awaiters, long names, deep chains.

usage: whole.py step anext|asend|athrow|aclose
       whole.py chain
       whole.py many FOLDER
"""

import asyncio
import importlib
import os
import sys
import threading
import time

from account import say


class Thrown(Exception):
    pass


def blocks(wanted, here):
    """Blocks at one place, for good, and says that it does."""
    if wanted == here:
        say(account="ready", pid=os.getpid(), running=asyncio.current_task().get_name())
        time.sleep(3600)


async def below(wanted, here):
    blocks(wanted, here)


async def generator(wanted):
    await below(wanted, "anext")
    try:
        yield 1
        await below(wanted, "asend")
        yield 2
    except Thrown:
        await below(wanted, "athrow")
        yield 3
    except GeneratorExit:
        await below(wanted, "aclose")
        raise


async def steps(wanted):
    steps = generator(wanted)
    if wanted != "anext":
        await steps.__anext__()
    step = {
        "anext": lambda: steps.__anext__(),
        "asend": lambda: steps.asend(0),
        "athrow": lambda: steps.athrow(Thrown()),
        "aclose": lambda: steps.aclose(),
    }[wanted]
    task = asyncio.get_running_loop().create_task(step())
    task.set_name("step")
    await task


async def outer():
    asyncio.current_task().set_name("outer")
    await asyncio.sleep(0)
    await below("chain", "chain")


async def sleeps():
    await asyncio.sleep(3600)


async def awaits(task):
    await task


async def deep(levels):
    if levels:
        await deep(levels - 1)
    else:
        await sleeps()


async def collects(tasks):
    for one in asyncio.as_completed(tasks):
        await one


def named(coroutine, name):
    task = asyncio.ensure_future(coroutine)
    task.set_name(name)
    return task


async def many(folder):
    shared = named(sleeps(), "shared")
    kept = [named(awaits(shared), "awaiter-%d" % number) for number in range(150)]
    kept.append(named(deep(200), "deep"))
    name = "name-" + "n" * 700 + "-end"
    path = os.path.join(folder, *["folder-%d-%s" % (number, "x" * 100) for number in range(7)])
    os.makedirs(path)
    with open(os.path.join(path, "far_below.py"), "w") as out:
        out.write("async def waits(sleeps):\n    await sleeps()\n")
    sys.path.insert(0, path)
    kept.append(named(importlib.import_module("far_below").waits(sleeps), name))
    parts = [named(sleeps(), "part-%d" % number) for number in range(3)]
    kept.append(named(collects(parts), "collector"))
    await asyncio.sleep(0.2)
    say(account="ready", pid=os.getpid(), name_len=len(name), path_len=len(path) + len("/far_below.py"))
    await asyncio.get_running_loop().create_future()


def ends_with_stdin():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=ends_with_stdin, daemon=True).start()
what = sys.argv[1]
asyncio.run({"step": steps, "many": many}[what](sys.argv[2]) if what != "chain" else outer())
