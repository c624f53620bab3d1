"""Prints the stacks of a process, by thread: `stacks.py PID`, one line of JSON."""

import json
import sys

from _remote_debugging import RemoteUnwinder


def frames(thread):
    # 3.15 has a location where 3.14 has the line.
    return [
        (frame.filename, getattr(frame, "lineno", None) or frame.location.lineno, frame.funcname)
        for frame in thread.frame_info
    ]


stacks = {}
# A thread that has entered another interpreter is told of both, the one that it is in first.
for one in RemoteUnwinder(int(sys.argv[1]), all_threads=True).get_stack_trace():
    for thread in getattr(one, "threads", [one]):
        stacks.setdefault(thread.thread_id, []).extend(frames(thread))
print(json.dumps(stacks))
