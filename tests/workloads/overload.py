"""A Python process whose child, a C program, switches as fast as the kernel can.

usage: overload.py PROGRAM

Command {"start": true}: starts the child and says its thread ids.
Command {"burst_ms": N}: the child plays for N ms; the answer is the child's own account.
"""

import json
import os
import subprocess
import sys

from account import commands, say


def main():
    say(account="ready", pid=os.getpid())
    child = None
    for command in commands():
        if "start" in command:
            child = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            say(account="started", child=child.pid, **json.loads(child.stdout.readline()))
        else:
            child.stdin.write(b"%d\n" % command["burst_ms"])
            child.stdin.flush()
            say(account="burst", **json.loads(child.stdout.readline()))
    os._exit(0)


main()
