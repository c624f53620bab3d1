"""Threads parked at known places; prints sys._current_frames() of all of them as one JSON line."""
import json
import sys
import threading
import time

started = []


def park(event):
    started.append(threading.get_ident())
    event.wait()


def plain(event):
    park(event)


def recursive(event, depth):
    if depth:
        return recursive(event, depth - 1)
    return park(event)


class Worker:
    def method(self, event):
        for _ in self.generator(event):
            pass

    def generator(self, event):
        yield 1
        yield park(event)

    @classmethod
    def of_class(cls, event):
        return [park(event) for _ in range(1)]

    @staticmethod
    def of_nothing(event):
        return (lambda: park(event))()

    def __call__(self, event):
        def naïve():
            sorted([1, 2], key=lambda _: park(event))

        naïve()


def decorated(function):
    def wrapper(*args):
        return function(*args)

    return wrapper


@decorated
def with_decorator(event):
    try:
        raise ValueError
    except ValueError:
        with threading.Lock():
            park(event)


def executed(event):
    exec(compile("\n\n\npark(event)", "<made up>", "exec"), {"park": park, "event": event})


async def coroutine(event):
    await deeper(event)


async def deeper(event):
    park(event)


def drives_a_coroutine(event):
    coroutine(event).send(None)


class Made:
    def __init__(self, event):
        if event:
            park(event)


def makes(event):
    # Often enough for the interpreter to call it in a way of its own.
    for turn in range(200):
        Made(event if turn == 199 else None)


def many_lines(event):
    x = 1

    y = (
        x
        + 2
    )
    return park(
        event
    ), y


def stack(frame):
    result = []
    while frame is not None:
        code = frame.f_code
        result.append([getattr(code, "co_qualname", code.co_name), code.co_filename, frame.f_lineno])
        frame = frame.f_back
    return result


def main():
    event = threading.Event()
    worker = Worker()
    targets = [
        plain,
        lambda event: recursive(event, 3),
        lambda event: recursive(event, 300),
        worker.method,
        Worker.of_class,
        Worker.of_nothing,
        worker,
        with_decorator,
        executed,
        drives_a_coroutine,
        makes,
        many_lines,
    ]
    threads = [threading.Thread(target=target, args=(event,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    while len(started) < len(threads):
        time.sleep(0.01)
    # The last one has said that it is there, but not begun to wait.
    time.sleep(0.3)
    frames = sys._current_frames()
    account = {str(ident): stack(frame) for ident, frame in frames.items() if ident in started}
    print(json.dumps(account), flush=True)
    sys.stdin.read()


main()
