"""Two hundred tasks that live for at most 20 ms each, forever; what they may look like is fixed.

A task is named `churn-D` and runs `step_D`, which awaits `step_D-1`, down to `step_0`. Ends when
its standard input is closed.
"""

import asyncio
import os
import random
import sys
import threading


async def step_0():
    await asyncio.sleep(random.random() * 0.02)


async def step_1():
    await step_0()


async def step_2():
    await step_1()


async def step_3():
    await step_2()


async def step_4():
    await step_3()


STEPS = [step_0, step_1, step_2, step_3, step_4]


async def keep_going():
    alive = set()
    print("ready", flush=True)
    while True:
        while len(alive) < 200:
            depth = random.randrange(len(STEPS))
            task = asyncio.create_task(STEPS[depth](), name=f"churn-{depth}")
            alive.add(task)
            task.add_done_callback(alive.discard)
        await asyncio.sleep(0.001)


def end():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end, daemon=True).start()
asyncio.run(keep_going())
