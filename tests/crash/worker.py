"""
A worker that ends as by `kill -9` when it comes to a fault point for the n-th time: `worker.py NUMBER POINT N`.

The product knows of no fault: the hook is installed here, and everything else is what `sluice worker` does.
"""

import os
import signal
import sys

import uvloop

from app import settings as settings_module
from app.engine import faults
from app.engine.app import run_worker
from app.observe import logs
from app.processes import exclusive


def kill_at(point: str, times: int) -> None:
    """Installs the hook that ends this process at the `times`-th call of the point."""
    seen = 0

    def hook(name: str) -> None:
        nonlocal seen
        seen += name == point
        if seen == times:
            os.kill(os.getpid(), signal.SIGKILL)

    faults.install(hook)


def main(number: int, point: str, times: int) -> None:
    """Runs the worker."""
    settings = settings_module.read()
    role = f"worker-{number}"
    logs.configure(settings, role)
    uvloop.install()
    kill_at(point, times)
    with exclusive(settings.data_dir, role):
        run_worker(settings, number)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
