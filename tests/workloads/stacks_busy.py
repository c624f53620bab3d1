"""Threads that go up and down stacks in which each caller can only have one callee."""
import sys
import threading

DEPTH = 60
sys.setswitchinterval(0.0001)
SOURCE = ["def f{0}(n):\n".format(DEPTH) + "    return n\n"]
for i in reversed(range(DEPTH)):
    # Functions of different sizes: a stale frame does not fit by accident.
    body = "".join("    x{0} = {0}\n".format(j) for j in range(i % 7))
    call = "    if n == {0}:\n        return 0\n    return f{1}(n)\n".format(i, i + 1)
    SOURCE.append("def f{0}(n):\n".format(i) + body + call)
space = {}
exec(compile("".join(SOURCE), "<chain>", "exec"), space)
first = space["f0"]


def climb(seed):
    n = seed
    while True:
        n = (n * 7 + 3) % (DEPTH + 20)
        first(n)


for seed in range(3):
    threading.Thread(target=climb, args=(seed,), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
