"""
What the processes of one machine owe each other: exit codes, locks, one life with the parent, and when a dead one is
started again.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import random
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from app.embedded.launch import PR_SET_PDEATHSIG


class Exit(IntEnum):
    """How a process of ours ends; scripts and the supervisor read it."""

    OK = 0
    OTHER = 1
    """A defect of ours, or a process that could not be kept running."""
    SETTINGS = 2
    """The command line, a setting or the pipelines file is wrong: starting again changes nothing."""
    BROKER = 3
    """Kafka cannot be reached, is too old, or the embedded one cannot start: worth another try."""
    TOPICS = 4
    """The topics are not as they must be: starting again changes nothing."""
    BUSY = 5
    """A data directory or a port belongs to another process."""


class BusyError(Exception):
    """A data directory or a port is taken; the message says by whom, as far as can be known, and what to do."""


@contextlib.contextmanager
def exclusive(directory: Path, role: str, *, wait_secs: float = 0.0) -> Iterator[None]:
    """
    Holds `directory` for one process of this role; the kernel lets go of it however the process ends.

    Raises BusyError when another one still has it after `wait_secs`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{role}.lock"
    deadline = time.monotonic() + wait_secs
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    owner = file.read(32).strip() or "unknown"
                    raise BusyError(
                        f"the data directory {directory} is in use: process {owner} is its {role}. "
                        "Stop that one, or give this one a directory of its own with SLUICE_DATA_DIR."
                    ) from error
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def installation_id(directory: Path) -> str:
    """A name of this data directory that no other machine has: made once, kept in it."""
    path = directory / "installation-id"
    directory.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(f".{os.getpid()}")
    made.write_text(secrets.token_hex(6), encoding="ascii")
    try:
        # A link is made or is refused, so of several processes that start together one decides.
        os.link(made, path)
    except FileExistsError:
        pass
    finally:
        made.unlink()
    return path.read_text(encoding="ascii")


def check_port(host: str, port: int) -> None:
    """Raises BusyError when nobody could listen on this address now."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BusyError(f"SERVER_HOST={host!r} is no address of this machine: {error.strerror or error}.") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise BusyError(
                f"the API cannot listen on {host}:{port}: {error.strerror or error}. "
                "Stop what uses that port, or choose another with SERVER_PORT."
            ) from error


def live_with_parent(parent: int, grace_secs: float) -> None:
    """
    Ties this process to its parent's life: when the parent is gone it gets SIGTERM, and is over `grace_secs` later.

    The child ties itself, so that no code has to run between fork and exec. A parent that was gone before is noticed
    as well.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_secs)
        os._exit(Exit.OTHER)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """
    When a process that died is started again.

    The first restart comes at once, for a worker that was stopped by hand; then the wait doubles with each quick
    failure. Twelve in a row take some two minutes: long enough for a lock or a disk to come back, short enough that
    whoever watches the service learns of a process that can never run.
    """

    initial_delay_secs: float = 0.1
    max_delay_secs: float = 30.0
    jitter_factor: float = 0.2
    well_after_secs: float = 60.0
    """A process that lived this long was well: its next failure is the first again."""
    max_quick_failures: int = 12

    def failures(self, before: int, lived_secs: float) -> int:
        """Quick failures in a row, this one included."""
        return 1 if lived_secs >= self.well_after_secs else before + 1

    def delay_secs(self, failures: int, *, counted: bool, chance: float) -> float | None:
        """
        How long to wait before the next start, None to give up.

        `counted` is False for failures that are not the process's own (its broker is away): those are tried for ever.
        `chance` is a number from 0 to 1 that decides the jitter.
        """
        if counted and failures >= self.max_quick_failures:
            return None
        doubled = self.initial_delay_secs * 2.0 ** min(failures - 1, 32)
        return min(doubled, self.max_delay_secs) * (1 + self.jitter_factor * (2 * chance - 1))


@dataclass(slots=True)
class Child:
    """One process that the supervisor keeps running: a role of `sluice`, and its number where there are several."""

    name: str
    arguments: tuple[str, ...]
    process: asyncio.subprocess.Process | None = None
    started_at: float = 0.0
    failures: int = 0
    restarts: int = 0

    async def start(self) -> int:
        """
        Starts it and answers its process id.

        It gets a process group of its own: Ctrl-C in a terminal reaches the supervisor alone, which stops all in order.
        `-P` keeps a folder named `app` in the working directory from being taken for ours.
        """
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "app.cli",
            *self.arguments,
            "--parent",
            str(os.getpid()),
            stdin=asyncio.subprocess.DEVNULL,
            process_group=0,
        )
        self.started_at = time.monotonic()
        return self.process.pid

    async def wait(self) -> int:
        """Its exit code, negative for the number of the signal that ended it."""
        assert self.process is not None
        return await self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens when it is over already."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.returncode is None

    def ended(self, policy: RestartPolicy, *, counted: bool) -> float | None:
        """Notes that it ended; how long to wait before the next start, None to give up."""
        lived_secs = time.monotonic() - self.started_at
        self.failures = policy.failures(self.failures, lived_secs)
        if not counted:
            self.failures = min(self.failures, policy.max_quick_failures - 1)
        self.restarts += 1
        return policy.delay_secs(self.failures, counted=counted, chance=random.random())  # noqa: S311  Only jitter.
