"""Processes are known by number and start time, and end with their parent."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from app.embedded import process
from app.embedded.process import Identity

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_process_is_known_while_it_runs() -> None:
    """A process that runs is alive, one that ended is not, even before it was collected."""
    child = subprocess.Popen(SLEEP)
    identity = process.identify(child.pid)
    assert identity is not None
    assert identity.alive
    child.kill()
    assert process.gone(identity, 5)
    child.wait()
    assert process.identify(child.pid) is None


def test_a_number_that_was_given_to_another_is_not_taken_for_ours() -> None:
    """The same number with another start time is another process: it counts as gone and is never signalled."""
    child = subprocess.Popen(SLEEP)
    identity = process.identify(child.pid)
    assert identity is not None
    stale = replace(identity, started="boot/1")
    assert not stale.alive
    process.stop(stale, 1)
    assert child.poll() is None
    process.stop(identity, 5)
    assert child.wait() == -signal.SIGTERM


def test_one_that_ignores_sigterm_is_made_to_end(tmp_path: Path) -> None:
    """A process that does not end on SIGTERM gets SIGKILL after its time."""
    ready = tmp_path / "ready"
    program = (
        "import signal, pathlib, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program])
    while not ready.exists():
        time.sleep(0.01)
    identity = process.identify(child.pid)
    assert identity is not None
    process.stop(identity, 0.2)
    assert child.wait() == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_an_attached_child_ends_with_its_parent(tmp_path: Path) -> None:
    """However the parent ends, even by SIGKILL, its attached child ends too."""
    program = (
        "import pathlib, time\n"
        "from app.embedded import process\n"
        f"child = process.start_attached({SLEEP!r}, environment={{}}, output=pathlib.Path({str(tmp_path / 'log')!r}))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    identity = _running(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert process.gone(identity, 5)


def test_a_detached_process_is_not_ours(tmp_path: Path) -> None:
    """A detached process is no child of who started it, and answers to its own number."""
    number = process.start_detached(SLEEP, environment={}, output=tmp_path / "log")
    identity = _running(number)
    with pytest.raises(ChildProcessError):
        os.waitpid(number, os.WNOHANG)
    process.stop(identity, 5)
    assert not identity.alive


def _running(number: int) -> Identity:
    identity = process.identify(number)
    assert identity is not None
    # It has become the program it was given, so that a signal reaches that one.
    deadline = time.monotonic() + 10
    while b"launch.py" in Path(f"/proc/{number}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return identity
