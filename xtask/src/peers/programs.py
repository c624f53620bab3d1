"""Programs whose tasks wait for each other: `programs.py NAME`. Prints a line once they are at rest."""

import asyncio
import sys
import threading


async def sleep():
    await asyncio.sleep(36000)


async def deep(levels):
    if levels:
        await deep(levels - 1)
    else:
        await sleep()


async def groups():
    async with asyncio.TaskGroup() as outer:
        for side in "left", "right":
            outer.create_task(inner_group(side, 2), name=side)
        outer.create_task(deep(5), name="deep")


async def inner_group(name, levels):
    async with asyncio.TaskGroup() as group:
        for number in range(2):
            inside = inner_group(f"{name}{number}", levels - 1) if levels else sleep()
            group.create_task(inside, name=f"{name}{number}")


async def gathers():
    shared = asyncio.create_task(sleep(), name="shared")

    async def wait_for_shared():
        await shared

    await asyncio.gather(
        asyncio.gather(*(deep(number) for number in range(4))),
        asyncio.gather(wait_for_shared(), wait_for_shared(), shared),
        asyncio.gather(asyncio.gather(sleep())),
    )


async def shields():
    async def shielded(task):
        await asyncio.shield(task)

    inner = asyncio.create_task(deep(2), name="inner")
    async with asyncio.TaskGroup() as group:
        group.create_task(shielded(inner), name="first")
        group.create_task(shielded(inner), name="second")
        group.create_task(shielded(asyncio.gather(sleep(), sleep())), name="gathered")


async def timeouts():
    async def in_timeout():
        async with asyncio.timeout(36000):
            async with asyncio.timeout(18000):
                await sleep()

    async def wait_for(what):
        await asyncio.wait_for(what, 36000)

    async def wait(tasks):
        await asyncio.wait(tasks, timeout=36000)

    waited = [asyncio.create_task(sleep(), name=f"waited {number}") for number in range(3)]
    await asyncio.gather(
        in_timeout(), wait_for(sleep()), wait_for(waited[0]), wait(waited), wait_for(in_timeout())
    )


async def queues():
    jobs, full = asyncio.Queue(), asyncio.Queue(1)
    full.put_nowait(None)
    lock, event, condition = asyncio.Lock(), asyncio.Event(), asyncio.Condition()

    async def consume():
        while True:
            await jobs.get()

    async def produce():
        await full.put(None)

    async def locked():
        async with lock:
            await event.wait()

    async def notified():
        async with condition:
            await condition.wait()

    async with asyncio.TaskGroup() as group:
        for work in consume, produce, locked, notified:
            for number in range(3):
                group.create_task(work(), name=f"{work.__name__} {number}")
        group.create_task(jobs.join(), name="join")


async def generators():
    async def numbers(levels):
        if levels:
            async for number in numbers(levels - 1):
                yield number
        yield 1
        await sleep()

    async def consume(levels):
        async for _ in numbers(levels):
            pass

    async def sleep_first():
        await sleep()
        yield

    async def cleanup():
        try:
            yield
        finally:
            await sleep()

    closing = cleanup()
    await anext(closing)
    tasks = [asyncio.create_task(consume(levels), name=f"consume {levels}") for levels in range(4)]
    tasks.append(asyncio.create_task(anext(sleep_first()), name="anext"))
    tasks.append(asyncio.create_task(closing.aclose(), name="aclose"))
    await asyncio.wait(tasks)


async def eager():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    await groups()


async def completed():
    tasks = [asyncio.create_task(deep(number), name=f"task {number}") for number in range(3)]
    for one in asyncio.as_completed(tasks):
        await one


async def crowd():
    async with asyncio.TaskGroup() as group:
        for number in range(500):
            group.create_task(deep(number % 4), name=f"one of many {number}")


async def threads():
    def other():
        asyncio.run(gathers())

    for _ in range(2):
        threading.Thread(target=other, daemon=True).start()
    await asyncio.gather(groups(), asyncio.to_thread(threading.Event().wait))


async def interpreters():
    from concurrent import interpreters

    def inside():
        interpreters.create().exec(
            "import threading, time\n"
            "def nested(): time.sleep(36000)\n"
            "threading.Thread(target=nested).start()\n"
            "nested()\n"
        )

    for _ in range(2):
        threading.Thread(target=inside, daemon=True).start()
    await deep(3)


async def main():
    work = asyncio.create_task(globals()[sys.argv[1]](), name="work")
    await asyncio.sleep(0.5)
    print("ready", flush=True)
    await work


asyncio.run(main())
