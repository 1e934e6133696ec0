"""
The door: the verbs of `sluice`. What a verb needs is imported when it runs, so that the small ones answer at once.

Errors that we know end with one clear text on standard error and a code of their own (app/processes.py); anything
else is a defect and keeps its traceback.
"""

# ruff: noqa: PLC0415  What a verb needs is imported when it runs.

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from app.processes import Exit, exclusive, live_with_parent
from app.settings import Settings

Action = Callable[[argparse.Namespace], int]
KNOWN = (
    ("app.settings", "SettingsError", Exit.SETTINGS),
    ("app.embedded.errors", "BrokerError", Exit.BROKER),
    ("app.log.topics", "TopicError", Exit.TOPICS),
    ("app.processes", "BusyError", Exit.BUSY),
    ("app.config.errors", "StoreLocked", Exit.BUSY),
    ("app.config.errors", "TableUnavailable", Exit.BROKER),
    ("app.config.errors", "StoreBroken", Exit.OTHER),
    ("app.demo.node", "DemoError", Exit.OTHER),
)
INTERRUPTED = 130
"""As a shell reports Ctrl-C."""
MAX_WORKERS = 256
LAST_GRACE_SECS = 10.0
"""How long a process may go on after its parent is gone, beside its drain."""

EPILOG = """\
Everything else is an environment variable, or stands in a file `.env` of the working directory:
`sluice settings` shows them all.

exit codes: 0 well, 1 a defect or a process that could not be kept running, 2 command line, settings or
pipelines file, 3 Kafka, 4 topics, 5 data directory or port taken
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; the process's exit code."""
    try:
        given = _parser().parse_args(arguments)
        action: Action = given.action
        return int(action(given))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more while it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:
        code = known(error)
        if code is None:
            raise
        print(f"sluice: {error}", file=sys.stderr)
        return code


def known(error: BaseException) -> Exit | None:
    """The exit code of an error that needs no traceback, or None."""
    for module, name, code in KNOWN:
        # An error that was raised comes from a module that was loaded; the others need not be.
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(error, getattr(loaded, name)):
            return code
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sluice",
        description="Takes every event of every WhatsApp instance from one Kafka topic and delivers it where each "
        "instance wants it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True, title="verbs")

    def verb(name: str, action: Action, words: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
        added.set_defaults(action=action)
        return added

    run = verb("run", _run, "everything on this machine: API, workers, and Kafka where no broker is configured")
    run.add_argument("--workers", type=_workers, default=1, metavar="N", help="worker processes (default: 1)")
    api = verb("api", _api, "one API process, for more machines than one")
    worker = verb("worker", _worker, "one worker process, for more machines than one")
    worker.add_argument(
        "--number",
        type=_number,
        default=0,
        metavar="K",
        help="which of this machine's workers it is, from 0: its name in the group and its store (default: 0)",
    )
    for role in (api, worker):
        role.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    verb("init", _init, "creates the topics that are missing and verifies the others")
    kafka = verb("kafka", _kafka, "the embedded Kafka of the data directory")
    kafka.add_argument(
        "command", choices=("start", "stop", "status"), help="status prints its address and exits 0 when it is up"
    )
    shown = verb("settings", _settings, "every setting, its value here and what it is")
    shown.add_argument("--markdown", action="store_true", help="as the table of app/SETTINGS.md, without values")
    demo = verb("demo", _demo, "the whole thing on this machine, with a receiver and made-up events")
    demo.add_argument("--once", action="store_true", help="checks every delivery, prints the summary, exits 0 or 1")
    verb("version", _version, "the versions of Sluice and of Python")
    return parser


def _workers(text: str) -> int:
    return _within(text, 1, MAX_WORKERS)


def _number(text: str) -> int:
    return _within(text, 0, MAX_WORKERS - 1)


def _within(text: str, minimum: int, maximum: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = minimum - 1
    if not minimum <= value <= maximum:
        raise argparse.ArgumentTypeError(f"a whole number from {minimum} to {maximum} is wanted, not {text!r}")
    return value


def _read(*, warn: bool = True) -> Settings:
    """The settings, from the environment and the `.env` beside it; says which variables nobody reads."""
    from app import dotenv, settings

    os.environ.update(dotenv.missing_from(os.environ, Path()))
    if warn:
        for warning in settings.unknown(os.environ):
            print(f"sluice: {warning}", file=sys.stderr)
    return settings.read()


def _tell(text: str) -> None:
    print(text, flush=True)


def _run(given: argparse.Namespace) -> int:
    from app import supervisor
    from app.observe import logs

    settings = _read()
    logs.configure(settings, "run")
    return supervisor.run(settings, workers=given.workers, announce=_tell)


def _api(given: argparse.Namespace) -> int:
    from app.api import process

    settings = _start_role(given, "api")
    with exclusive(settings.data_dir, "api", wait_secs=_patience(given, settings)):
        asyncio.run(process.run(settings))
    return Exit.OK


def _worker(given: argparse.Namespace) -> int:
    role = f"worker-{given.number}"
    settings = _start_role(given, role)
    from app.engine.app import run_worker  # After uvloop: Faust takes the loop it finds.

    with exclusive(settings.data_dir, role, wait_secs=_patience(given, settings)):
        run_worker(settings, given.number)
    return Exit.OK


def _start_role(given: argparse.Namespace, role: str) -> Settings:
    """What both roles begin with: settings, logs, uvloop, and the tie to the supervisor if there is one."""
    from app.observe import logs

    settings = _read(warn=given.parent is None)
    if given.parent is not None:
        live_with_parent(given.parent, settings.drain_secs + LAST_GRACE_SECS)
    logs.configure(settings, role)
    if sys.platform != "win32":
        import uvloop

        uvloop.install()
    return settings


def _patience(given: argparse.Namespace, settings: Settings) -> float:
    """A predecessor that lost its supervisor may still be draining; without a supervisor, say so at once."""
    return 0.0 if given.parent is None else settings.drain_secs + LAST_GRACE_SECS


def _init(_: argparse.Namespace) -> int:
    from app.log import clients
    from app.observe import logs
    from app.prepare import prepare

    settings = _read()
    logs.configure(settings, "init")
    report = asyncio.run(prepare(clients.connect(settings, "sluice-init"), settings, thorough=True))
    for words, names in (("created", report.created), ("configured anew", report.altered)):
        for name in names:
            print(f"{words}: {name}")
    print(f"topics {settings.topic_prefix}* are as they must be, {report.partitions} partitions")
    return Exit.OK


def _kafka(given: argparse.Namespace) -> int:
    from app.embedded import progress
    from app.embedded.kafka import EmbeddedKafka

    settings = _read()
    if given.command == "start":
        with closing(progress.reporter()) as shown:
            print(EmbeddedKafka(settings, progress=shown).start(detached=True))
        return Exit.OK
    kafka = EmbeddedKafka(settings)
    if given.command == "stop":
        kafka.stop()
    else:
        address = kafka.status()
        if address is None:
            print(f"sluice: no embedded Kafka is up in {kafka.home.path}", file=sys.stderr)
            return Exit.OTHER
        print(address)
    return Exit.OK


def _settings(given: argparse.Namespace) -> int:
    from app import settings

    if given.markdown:
        print(settings.markdown(), end="")
        return Exit.OK
    _read()
    for variable in settings.all_variables():
        value = os.environ.get(variable.name, "")
        where = "set" if value else "default"
        shown = "***" if value and variable.secret else value or settings.shown(variable)
        print(f"{variable.name}={shown}  ({where}) {variable.description}")
    return Exit.OK


def _demo(given: argparse.Namespace) -> int:
    from app.demo import main as demo

    return int(demo.run(_read(), once=given.once))


def _version(_: argparse.Namespace) -> int:
    print(f"sluice {version('sluice')} (Python {'.'.join(map(str, sys.version_info[:3]))})")
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
