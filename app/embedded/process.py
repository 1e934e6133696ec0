"""Processes by number and start time, so that a number that was given to somebody else is never taken for ours."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from app.embedded import launch

POLL_SECS = 0.02
KILL_SECS = 5.0
"""Longest wait for a process to be gone after SIGKILL: only a hung disk takes longer."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One process: its number, and when it started, in whatever words the system has for it."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        return identify(self.pid) == self


def identify(pid: int) -> Identity | None:
    """The process that has this number now, or None; one that ended and was not yet collected counts as gone."""
    started = _started(pid)
    return Identity(pid, started) if started else None


def myself() -> Identity:
    """The process that asks."""
    identity = identify(os.getpid())
    if identity is None:
        raise RuntimeError(f"this process ({os.getpid()}) is not in the system's list of processes")
    return identity


def _started(pid: int) -> str:
    if sys.platform == "linux":
        try:
            # The name in parentheses may hold anything, so what follows is counted from its end (proc(5)).
            state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        # A leader is a zombie a moment before its last thread lets go of ports and files.
        return "" if state in "ZX" and int(rest[16]) <= 1 else f"{boot}/{rest[18]}"
    answer = subprocess.run(  # noqa: S603  A number is the only thing that varies.
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return "" if len(answer) < 2 or answer[0].startswith("Z") else answer[1].strip()


@functools.cache
def _starter() -> ThreadPoolExecutor:
    # To Linux the parent is the thread that forked, so the child would end with a short-lived one. This one stays.
    return ThreadPoolExecutor(1, thread_name_prefix="start")


def start_attached(program: list[str], *, environment: dict[str, str], output: Path) -> subprocess.Popen[bytes]:
    """
    A child that gets SIGTERM when this process ends, however it ends (Linux; elsewhere it stays).

    It has a session of its own: Ctrl-C reaches the parent only, which stops things in order.
    """

    def start() -> subprocess.Popen[bytes]:
        with output.open("wb") as log:
            return subprocess.Popen(  # noqa: S603  The caller names the program; no shell is wanted.
                [sys.executable, "-I", "-S", launch.__file__, "attached", str(os.getpid()), *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    return _starter().submit(start).result()


def start_detached(program: list[str], *, environment: dict[str, str], output: Path) -> int:
    """A process that outlives this one; its number."""
    with output.open("wb") as log:
        answer = subprocess.run(  # noqa: S603  As above.
            [sys.executable, "-I", "-S", launch.__file__, "detached", *program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            check=True,
        )
    return int(answer.stdout)


def stop(identity: Identity, timeout_secs: float) -> None:
    """The process is gone when this returns: asked with SIGTERM, made to with SIGKILL after `timeout_secs`."""
    for sign, patience_secs in ((signal.SIGTERM, timeout_secs), (signal.SIGKILL, KILL_SECS)):
        if not identity.alive:
            return
        with contextlib.suppress(ProcessLookupError):  # It may end between the question and the signal.
            os.kill(identity.pid, sign)
        if gone(identity, patience_secs):
            return


def gone(identity: Identity, timeout_secs: float) -> bool:
    """Whether the process ended within the time."""
    deadline = time.monotonic() + timeout_secs
    while identity.alive:
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECS)
    return True
