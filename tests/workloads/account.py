"""What every workload shares: its own account as JSON lines on stdout, commands from stdin."""

import bisect
import json
import sys
import threading
import time

# A clock reading that took longer than this between its two instants is thrown away.
MAX_SKEW_NS = 20_000


def say(**fields):
    """Print one line of the account."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def commands():
    """Commands of the test, one JSON object a line, until it closes stdin."""
    for line in iter(sys.stdin.readline, ""):
        yield json.loads(line)


class Clock:
    """Readings (monotonic ns, CPU ns) of one CPU clock, in order of time."""

    def __init__(self, read):
        self.read = read
        self.at = []
        self.cpu = []

    def sample(self):
        before = time.monotonic_ns()
        cpu = self.read()
        after = time.monotonic_ns()
        if after - before < MAX_SKEW_NS:
            self.at.append((before + after) // 2)
            self.cpu.append(cpu)

    def around(self, instant):
        """The last reading before `instant` and the first after it; None where there is none."""
        at, cpu = list(self.at), list(self.cpu)
        at = at[: len(cpu)]
        i = bisect.bisect_right(at, instant)
        before = [at[i - 1], cpu[i - 1]] if i > 0 else None
        after = [at[i], cpu[i]] if i < len(at) else None
        return [before, after]


class Clocks:
    """The CPU clocks of every thread that takes part, and the process's."""

    def __init__(self):
        self.threads = []
        self.process = Clock(time.process_time_ns)
        self.process_lock = threading.Lock()

    def mine(self):
        """A clock of the calling thread; only that thread may sample it."""
        clock = Clock(time.thread_time_ns)
        clock.tid = threading.get_native_id()
        clock.name = threading.current_thread().name
        clock.sample()
        self.threads.append(clock)
        return clock

    def sample_process(self):
        if self.process_lock.acquire(False):
            try:
                self.process.sample()
            finally:
                self.process_lock.release()

    def answer(self, instants):
        """The readings around each instant, for every thread and for the process."""
        return {
            "skew_ns": MAX_SKEW_NS,
            "threads": [
                {"tid": clock.tid, "name": clock.name, "around": [clock.around(t) for t in instants]}
                for clock in self.threads
            ],
            "process": {"around": [self.process.around(t) for t in instants]},
        }


def start(name, target, *args):
    """Start a daemon thread and wait until it has its native id."""
    thread = threading.Thread(target=target, name=name, args=args, daemon=True)
    thread.start()
    while thread.native_id is None:
        time.sleep(0.001)
    return thread


def thread_list():
    """Native id and name of every thread that `threading` knows."""
    return [{"tid": t.native_id, "name": t.name} for t in threading.enumerate()]
