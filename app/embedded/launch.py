"""
Becomes the program it is given: `launch.py attached PARENT PROGRAM...` ends with its parent, `launch.py detached
PROGRAM...` outlives it and prints the process number it got.

A small program of its own, because code between fork and exec in a process with threads may hang.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when the thread that started it ends."""


def _attached(parent: int, program: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the parent was gone before its Kafka began")
    os.execv(program[0], program)  # noqa: S606  The caller names the program; no shell is wanted.


def _detached(program: list[str]) -> None:
    os.setsid()
    child = os.fork()
    if child:
        sys.stdout.write(f"{child}\n")
        return
    os.dup2(2, 1)  # The caller reads until the last holder of standard output is gone.
    os.execv(program[0], program)  # noqa: S606  As above.


if __name__ == "__main__":
    if sys.argv[1] == "attached":
        _attached(int(sys.argv[2]), sys.argv[3:])
    else:
        _detached(sys.argv[2:])
