"""A `_remote_debugging` whose unwinder asks concmon-bpf.

Python finds it through PYTHONPATH before its own extension module, from which it takes the types of
results. CONCMON_BPF names the program, and CONCMON_LOOKS the file that gets one byte for each look.
"""

import glob
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import threading


def _own():
    folder = next(
        path for path in sys.path if glob.glob(f"{path}/_remote_debugging.*.so")
    )
    path = glob.glob(f"{folder}/_remote_debugging.*.so")[0]
    loader = importlib.machinery.ExtensionFileLoader("_remote_debugging", path)
    spec = importlib.util.spec_from_file_location("_remote_debugging", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


_OWN = _own()
for _name in dir(_OWN):
    if not _name.startswith("__") and _name != "RemoteUnwinder":
        globals()[_name] = getattr(_OWN, _name)

# `FrameInfo` has columns and an opcode since 3.15; threads then come by interpreter.
_LOCATIONS = hasattr(_OWN, "LocationInfo")
# The longest name of a task that the unwinder gives.
_LONGEST_TASK_NAME = 255


def _look(pid, command):
    """What concmon-bpf says of a process."""
    with open(os.environ["CONCMON_LOOKS"], "a") as looks:
        looks.write(".")
    said = subprocess.run(
        [os.environ["CONCMON_BPF"], command, "--json", "--pid", str(pid)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if said.returncode:
        last = said.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        if not os.path.exists(f"/proc/{pid}/exe"):
            raise ProcessLookupError(last)
        raise RuntimeError(last)
    for process in json.loads(said.stdout)["processes"]:
        if process["pid"] == pid and process["python"]:
            return process
    raise RuntimeError("no interpreter was seen")


def _frame(frame):
    line = frame["line"]
    if not _LOCATIONS:
        return _OWN.FrameInfo((frame["file"], line, frame["function"]))
    # concmon tells lines only.
    location = None if line is None else _OWN.LocationInfo((line, line, -1, -1))
    return _OWN.FrameInfo((frame["file"], location, frame["function"], None))


def _outside(stack):
    """The frames without those of this module and of what it calls."""
    own = [at for at, frame in enumerate(stack) if frame["file"] == __file__]
    return stack[own[-1] + 1 :] if own else stack


def _whole(stack):
    """The frames that the unwinder tells: up to 3.14 it ends above those that begin a thread."""
    stack = _outside(stack)
    if _LOCATIONS:
        return stack
    return [frame for frame in stack if not frame["function"].startswith("Thread._bootstrap")]


def _by_age(rows):
    """The unwinder tells the oldest task first; asyncio numbers tasks that have no name of their own."""

    def number(row):
        before, _, after = row["name"].partition("-")
        return int(after) if before == "Task" and after.isdecimal() else 0

    return sorted(rows, key=number)


def _place(frame):
    return frame["function"], frame["file"]


def _running(stack, chain):
    """The frames of a running task: its coroutines', and those of the functions that they are in."""
    stack = _outside(stack)
    # A coroutine that reads itself is inside this module for concmon, too.
    places = [_place(frame) for frame in reversed(chain) if frame["file"] != __file__]
    for at in range(len(stack)):
        if [_place(frame) for frame in stack[at : at + len(places)]] == places:
            return stack[: at + len(places)]
    return list(reversed(chain))


class RemoteUnwinder:
    def __init__(
        self, pid, *, all_threads=False, only_active_thread=False, mode=0, debug=False,
        skip_non_matching_threads=True, native=False, gc=False, opcodes=False,
        cache_frames=False, stats=False,
    ):
        self._pid = pid
        self._all = all_threads
        self._active = only_active_thread
        _look(pid, "tasks")

    def get_stack_trace(self):
        process = _look(self._pid, "dump")
        holder = (process["gil"] or {}).get("holder_tid")
        threads = process["threads"]
        if self._pid == os.getpid():
            # This thread had the GIL until it asked.
            holder = threading.get_native_id()
        if self._active:
            threads = [thread for thread in threads if thread["tid"] == holder]
        elif not self._all:
            threads = threads[:1]
        rows = [self._thread(thread, holder) for thread in threads]
        # concmon tells the threads of all interpreters, but not whose they are.
        return [_OWN.InterpreterInfo((0, rows))] if _LOCATIONS else rows

    def _thread(self, thread, holder):
        frames = [_frame(frame) for frame in _whole(thread["stack"])]
        if not _LOCATIONS:
            return _OWN.ThreadInfo((thread["tid"], frames))
        status = 0
        if thread["tid"] == holder:
            status |= _OWN.THREAD_STATUS_HAS_GIL
        if thread["state"] == "active":
            status |= _OWN.THREAD_STATUS_ON_CPU
        if thread["state"] == "waiting_for_gil":
            status |= _OWN.THREAD_STATUS_GIL_REQUESTED
        if thread["role"] == "main":
            status |= _OWN.THREAD_STATUS_MAIN_THREAD
        return _OWN.ThreadInfo((thread["tid"], status, frames))

    def get_all_awaited_by(self):
        def pending(rows):
            return _by_age(row for row in rows if row["state"] != "done")

        answer = self._awaited("tasks", pending)
        if all(info.thread_id for info in answer):
            # Where the unwinder tells the tasks that no thread has.
            answer.append(_OWN.AwaitedInfo((0, [])))
        return answer

    def get_async_stack_trace(self):
        def chain(rows):
            """The running task, then whoever waits for it, nearest first."""
            by_id = {row["id"]: row for row in rows}
            found = [row["id"] for row in rows if row["state"] == "running"]
            for one in found:
                found += [at for at in by_id[one]["awaited_by"] if at in by_id and at not in found]
            return [by_id[one] for one in found]

        return [info for info in self._awaited("dump", chain) if info.awaited_by]

    def _awaited(self, command, wanted):
        process = _look(self._pid, command)
        stacks = {thread["tid"]: thread["stack"] for thread in process.get("threads", ())}
        everybody = {}
        for loop in process["loops"]:
            for row in loop["tasks"]:
                frames = list(reversed(row["awaiting"]))
                if row["state"] == "running" and loop["tid"] in stacks:
                    frames = _running(stacks[loop["tid"]], row["awaiting"])
                everybody[row["id"]] = [_frame(frame) for frame in _outside(frames)]
        answer = []
        for loop in process["loops"]:
            tasks = [self._task(row, everybody) for row in wanted(loop["tasks"])]
            answer.append(_OWN.AwaitedInfo((loop["tid"] or 0, tasks)))
        return answer

    def _task(self, row, everybody):
        at = int(row["id"], 16)
        awaiters = [
            _OWN.CoroInfo((everybody[one], int(one, 16)))
            for one in row["awaited_by"]
            if one in everybody
        ]
        name = row["name"][:_LONGEST_TASK_NAME]
        stack = [_OWN.CoroInfo((everybody[row["id"]], at))]
        return _OWN.TaskInfo((at, name, stack, awaiters))
