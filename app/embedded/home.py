"""The embedded Kafka's folder in the data directory: what is kept there, and how it is written and read."""

import contextlib
import fcntl
import os
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

import orjson

from app.embedded.errors import EmbeddedKafkaError
from app.embedded.process import Identity

PORTS = range(20000, 32000)
"""Below the ports that systems give to outgoing connections, so that a kept port is seldom taken at the next start."""
POLL_SECS = 0.05


@dataclass(frozen=True, slots=True)
class State:
    """
    What the last start left: ports, and the process, which may be over by now: its start time tells.

    `parent` is whom the process was to end with, None when it was to outlive everybody; `ready` says that its
    coordinators have answered.
    """

    port: int
    controller_port: int
    process: Identity | None = None
    parent: Identity | None = None
    ready: bool = False

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Home:
    """The folder; every path in it is named here."""

    path: Path

    @property
    def log_directory(self) -> Path:
        """The topics."""
        return self.path / "data"

    @property
    def properties(self) -> Path:
        """The broker's configuration, written at each start."""
        return self.path / "server.properties"

    @property
    def log(self) -> Path:
        """What the broker says."""
        return self.path / "kafka.log"

    @property
    def console(self) -> Path:
        """What Java itself says: why it did not even begin."""
        return self.path / "console.log"

    @property
    def temporary(self) -> Path:
        """Where the broker unpacks its native libraries."""
        return self.path / "tmp"

    @property
    def formatted(self) -> bool:
        """Whether the folder of the topics was made ready once."""
        return (self.log_directory / "meta.properties").exists()

    @contextlib.contextmanager
    def locked(self, timeout_secs: float) -> Iterator[None]:
        """One start or stop at a time, over all processes; raises EmbeddedKafkaError after the time."""
        deadline = time.monotonic() + timeout_secs
        with (self.path / "lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= deadline:
                        raise EmbeddedKafkaError(
                            f"another process has been starting or stopping the embedded Kafka in {self.path} for "
                            f"{timeout_secs:g} s; see {self.log}, or set SLUICE_DATA_DIR to a directory of its own"
                        ) from error
                    time.sleep(POLL_SECS)
            yield

    def read(self) -> State | None:
        """What the last start left; None when there was none, or what it left cannot be read."""
        try:
            kept = orjson.loads((self.path / "state.json").read_bytes())
            return State(
                port=int(kept["port"]),
                controller_port=int(kept["controller_port"]),
                process=Identity(**kept["process"]) if kept["process"] else None,
                parent=Identity(**kept["parent"]) if kept["parent"] else None,
                ready=bool(kept["ready"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # Torn by a crash: Kafka's own lock on its folder still keeps two from writing there.

    def write(self, state: State) -> None:
        """Keeps it, all or nothing."""
        partial = self.path / "state.json.partial"
        partial.write_bytes(orjson.dumps(asdict(state)))
        partial.replace(self.path / "state.json")

    def write_configuration(self, state: State, message_bytes: int) -> None:
        """The broker's configuration for these ports and a largest record of so many bytes."""
        template = Template((files("app.embedded") / "server.properties").read_text("utf-8"))
        # A properties file takes a backslash as an escape.
        log_directory = str(self.log_directory).replace("\\", "\\\\")
        self.properties.write_text(
            template.substitute(
                port=state.port,
                controller_port=state.controller_port,
                log_directory=log_directory,
                message_bytes=message_bytes,
                request_bytes=max(100 << 20, 2 * message_bytes),
            ),
            encoding="utf-8",
        )

    def tail(self, lines: int = 15) -> str:
        """The last words of Java and of the broker."""
        said = []
        for path in (self.console, self.log):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 16384))
                said += file.read().decode("utf-8", "replace").splitlines()[-lines:]
        return "\n".join(said)


def choose_ports(kept: State | None) -> State:
    """The kept ports when both are free, else two others that are."""
    if kept and all(_free(port) for port in (kept.port, kept.controller_port)):
        return State(kept.port, kept.controller_port)
    chosen: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if _free(port):
            chosen.append(port)
        if len(chosen) == 2:
            return State(port=chosen[0], controller_port=chosen[1])
    raise EmbeddedKafkaError(f"no two free ports on 127.0.0.1 from {PORTS.start} to {PORTS.stop - 1}; free some")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As Kafka does: closed connections do not count.
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
