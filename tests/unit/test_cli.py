"""The door: verbs, exit codes and texts; and what the supervisor decides without a process."""

import argparse
import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app import cli
from app.processes import BusyError, Exit, RestartPolicy, check_port, exclusive

VERBS = ("run", "api", "worker", "init", "kafka", "settings", "demo", "version")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and an environment of the test's own."""
    for name in list(os.environ):
        if name.startswith(("SLUICE_", "SERVER_", "AUTHENTICATION_", "WEBHOOK_")):
            monkeypatch.delenv(name)
    # `.env` is put into the environment: on a copy, so that no other test sees it.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        code = cli.main(arguments)
    except SystemExit as left:
        code = int(left.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """`sluice -h` says what there is, and how it ends."""
    code, out, _ = run(capsys, "-h")

    assert code == 0
    assert all(f"    {verb} " in out for verb in VERBS)
    assert "exit codes" in out


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """`sluice VERB -h` begins with a sentence."""
    code, out, _ = run(capsys, verb, "-h")

    assert code == 0
    assert out.startswith(f"usage: sluice {verb}")
    assert "." in out.split("\n\n")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "required: VERB"),
        (("fly",), "invalid choice: 'fly'"),
        (("run", "--workers", "0"), "from 1 to 256"),
        (("run", "--workers", "many"), "from 1 to 256"),
        (("worker", "--number", "-1"), "from 0 to 255"),
        (("kafka",), "required: command"),
        (("kafka", "restart"), "invalid choice: 'restart'"),
    ],
)
def test_usage(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str) -> None:
    """A wrong command line is answered with 2 and what is wanted."""
    code, _, err = run(capsys, *arguments)

    assert code == Exit.SETTINGS
    assert says in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """It tells ours and Python's."""
    code, out, _ = run(capsys, "version")

    assert code == 0
    assert out.startswith("sluice 0.")
    assert "Python 3." in out


@pytest.mark.parametrize("verb", ["version", "settings", "kafka"])
def test_small_verbs_are_quick(house: Path, verb: str) -> None:
    """What only looks does not load Faust, the Kafka client or a web server."""
    arguments = [verb, "status"] if verb == "kafka" else [verb]
    script = (
        "import sys; from app import cli; cli.main(sys.argv[1:]); "
        "print([name for name in ('faust', 'aiokafka', 'aiohttp', 'rocksdict') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=house, capture_output=True, text=True, check=True, timeout=30
    )

    assert ended.stdout.splitlines()[-1] == "[]"


def test_settings_are_listed_without_secrets(
    house: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sluice settings` shows where each value comes from, and of a secret only that it is set."""
    monkeypatch.setenv("AUTHENTICATION_API_KEY", "a-real-key")
    (house / ".env").write_text("SERVER_PORT=1234\n")

    code, out, _ = run(capsys, "settings")

    assert code == 0
    assert "SERVER_PORT=1234  (set)" in out
    assert "SLUICE_PARTITIONS=  (default)" in out
    assert "AUTHENTICATION_API_KEY=***  (set)" in out
    assert "a-real-key" not in out


def test_wrong_settings(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All problems are told, without a traceback, with code 2."""
    (house / ".env").write_text("SERVER_PORT=x\nSLUICE_SLOTS=1\n")

    code, out, err = run(capsys, "run")

    assert (code, out) == (Exit.SETTINGS, "")
    assert "SERVER_PORT" in err
    assert "SLUICE_SLOTS" in err
    assert "Traceback" not in err


def test_misspelt_variables_are_told(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning names the nearest setting, and the verb goes on."""
    (house / ".env").write_text("SLUICE_BROKER=a:1\n")

    code, _, err = run(capsys, "settings")

    assert code == 0
    assert "did you mean SLUICE_BROKERS?" in err


def test_no_kafka(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`kafka status` without one ends with 1, `init` with 3; both say where they looked."""
    code, out, err = run(capsys, "kafka", "status")
    assert (code, out) == (Exit.OTHER, "")
    assert str(house) in err

    code, _, err = run(capsys, "init")
    assert code == Exit.BROKER
    assert "SLUICE_BROKERS" in err


@pytest.mark.usefixtures("house")
def test_unreachable_brokers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers that do not answer are named, with code 3."""
    monkeypatch.setenv("SLUICE_BROKERS", "127.0.0.1:1")

    code, _, err = run(capsys, "init")

    assert code == Exit.BROKER
    assert "127.0.0.1:1" in err


@pytest.mark.parametrize(("module", "name", "code"), cli.KNOWN)
def test_known_errors(module: str, name: str, code: Exit) -> None:
    """Each error that has a code of its own exists, and its children have the same code."""
    error = getattr(importlib.import_module(module), name)

    assert cli.known(error("what, where, what to do")) is code
    assert cli.known(type("Child", (error,), {})("x")) is code
    assert cli.known(ValueError("x")) is None


def test_known_errors_are_texts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A known error is one text and its code; a defect keeps its traceback."""

    def refuse(_: argparse.Namespace) -> int:
        raise BusyError("the port is taken")

    def break_down(_: argparse.Namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_version", refuse)
    assert run(capsys, "version") == (Exit.BUSY, "", "sluice: the port is taken\n")

    monkeypatch.setattr(cli, "_version", break_down)
    with pytest.raises(ZeroDivisionError):
        cli.main(["version"])


def test_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a verb quietly, as a shell reports it."""

    def interrupt(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_version", interrupt)

    assert run(capsys, "version") == (130, "", "")


def test_a_directory_belongs_to_one(tmp_path: Path) -> None:
    """The second of one role is refused with directory and process; another role, and a later one, are not."""
    with exclusive(tmp_path, "run"):
        with pytest.raises(BusyError, match=f"process {os.getpid()}") as refused, exclusive(tmp_path, "run"):
            pass
        assert str(tmp_path) in str(refused.value)
        with exclusive(tmp_path, "api"):
            pass
    with exclusive(tmp_path, "run", wait_secs=1):
        pass


def test_a_taken_port_is_told() -> None:
    """Host, port and setting are named; a free port passes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=f"127.0.0.1:{port}.*SERVER_PORT"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_a_host_that_is_none_is_told() -> None:
    """An address that is not this machine's is told."""
    with pytest.raises(BusyError, match=r"192\.0\.2\.1:1: .*SERVER_PORT"):
        check_port("192.0.2.1", 1)


@pytest.mark.parametrize(
    ("failures", "counted", "chance", "delay_secs"),
    [
        (1, True, 0.5, 0.1),
        (2, True, 0.5, 0.2),
        (4, True, 0.5, 0.8),
        (4, True, 0.0, 0.64),
        (4, True, 1.0, 0.96),
        (11, True, 0.5, 30.0),
        (12, True, 0.5, None),
        (12, False, 0.5, 30.0),
        (10_000, False, 0.5, 30.0),
    ],
)
def test_restarts(failures: int, counted: bool, chance: float, delay_secs: float | None) -> None:
    """The wait doubles to its limit; after twelve quick failures of its own a process is given up."""
    assert RestartPolicy().delay_secs(failures, counted=counted, chance=chance) == pytest.approx(delay_secs)


def test_a_process_that_ran_well_starts_over() -> None:
    """Failures count in a row: a minute of life clears them."""
    policy = RestartPolicy()

    assert policy.failures(5, lived_secs=3.0) == 6
    assert policy.failures(5, lived_secs=60.0) == 1
