"""An interpreter whose memory goes away, while its process lives on in C.

usage: hidden.py LIBRARY HOW

HOW is `unmap` or `protect`. LIBRARY is hidden.c, compiled.
"""

import ctypes
import json
import os
import sys

library = ctypes.CDLL(sys.argv[1])
with open("/proc/self/maps") as maps:
    lines = [line.split() for line in maps]
executable = os.path.realpath(sys.executable)
parts = [
    [int(end, 16) for end in line[0].split("-")]
    for line in lines
    if len(line) > 5 and "w" in line[1] and ("libpython" in line[5] or line[5] == executable)
]
first, last = parts[-1]
# What is not in the file follows.
for line in lines:
    begin, end = [int(end, 16) for end in line[0].split("-")]
    if begin == last and len(line) < 6:
        last = end
said = (json.dumps({"account": "ready", "pid": os.getpid()}) + "\n").encode()
library.hide(
    ctypes.c_ulong(first),
    ctypes.c_ulong(last - first),
    sys.argv[2] == "unmap",
    said,
    ctypes.c_ulong(len(said)),
)
