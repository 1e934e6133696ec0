"""A real Apache Kafka 4.1.1 for one machine: KRaft, one node, loopback only (design, section 10)."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from app.embedded import java, process
from app.embedded.errors import BrokerError, EmbeddedKafkaError
from app.embedded.home import Home, State, choose_ports
from app.embedded.jars import class_path
from app.embedded.progress import Reporter, Silent
from app.settings import Settings

START_TIMEOUT_SECS = 90.0
STOP_TIMEOUT_SECS = 20.0
PORT_TRIES = 3
"""Between choosing a free port and taking it somebody else may take it."""
CONNECT_TIMEOUT_SECS = 1.0
LEAST_FREE_BYTES = 128 << 20
FULL_DISK_BYTES = 1 << 20
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
"""What the broker gets of ours: no secret, and no JAVA_TOOL_OPTIONS."""


class EmbeddedKafka:
    """
    The Kafka of one data directory. `start`, `stop` and `status` may be called from any process; they agree through a
    lock and a small file in the directory.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        progress: Reporter | None = None,
        start_timeout_secs: float = START_TIMEOUT_SECS,
        stop_timeout_secs: float = STOP_TIMEOUT_SECS,
    ) -> None:
        self.home = Home(settings.data_dir / "kafka")
        self._settings = settings
        self._progress = progress or Silent()
        self._start_timeout_secs = start_timeout_secs
        self._stop_timeout_secs = stop_timeout_secs
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def started_here(self) -> bool:
        """Whether `start` of this very object started the broker that is up, so that this process is to stop it."""
        return self._child is not None and self._child.poll() is None

    def fetch(self) -> None:
        """All jars are in the cache when this returns."""
        class_path(self._settings.cache_dir, self._progress)

    def status(self) -> str | None:
        """Its address, `127.0.0.1:PORT`, when it is up."""
        state = self.home.read()
        if not (state and state.ready and state.process and state.process.alive):
            return None
        try:
            socket.create_connection(("127.0.0.1", state.port), CONNECT_TIMEOUT_SECS).close()
        except OSError:
            return None
        return state.address

    def start(self, *, detached: bool = False) -> str:
        """
        Its address, `127.0.0.1:PORT`, once its group coordinator answers; at once when it is up already.

        It ends with this process, however that ends (Linux); `detached` lets it outlive every process. What a killed
        parent left behind is stopped first; the data stays.

        Raises EmbeddedKafkaError.
        """
        try:
            self.home.path.mkdir(parents=True, exist_ok=True)
            with self.home.locked(self._start_timeout_secs + self._stop_timeout_secs):
                return self._adopt() or self._start(detached=detached)
        except OSError as error:
            raise EmbeddedKafkaError(
                f"the embedded Kafka cannot keep its data in {self.home.path}: {error}; "
                "free space there, or set SLUICE_DATA_DIR to a directory that can be written"
            ) from error

    def stop(self) -> None:
        """It is down when this returns, whoever started it; nothing happens when it was."""
        if self.home.path.exists():
            with self.home.locked(self._start_timeout_secs + self._stop_timeout_secs):
                state = self.home.read()
                if state and state.process:
                    # Its name stays written: that process being gone says enough, and the disk may be full.
                    process.stop(state.process, self._stop_timeout_secs)
        self._collect()

    def failure(self) -> str:
        """Why it is not up, as far as its log tells: for whoever finds that it ended."""
        return self._explain(self.home.tail())

    def _explain(self, said: str) -> str:
        if shutil.disk_usage(self.home.path).free < FULL_DISK_BYTES:
            said += "No space left on device"  # Which it could not write down itself.
        return java.explain(said, self.home.path)

    def _adopt(self) -> str | None:
        """The address of a broker that may stay; one whose parent is gone ends, since it must not outlive it."""
        state = self.home.read()
        if state is None or state.process is None:
            return None
        orphan = state.parent is not None and not state.parent.alive
        if not orphan and (address := self.status()):
            return address
        process.stop(state.process, self._stop_timeout_secs)
        self._collect()
        return None

    def _start(self, *, detached: bool) -> str:
        self._collect()
        self._require_disk()
        classes = class_path(self._settings.cache_dir, self._progress)
        shutil.rmtree(self.home.temporary, ignore_errors=True)
        self.home.temporary.mkdir()
        deadline = time.monotonic() + self._start_timeout_secs
        kept = self.home.read()
        for attempt in range(1, PORT_TRIES + 1):
            state = choose_ports(kept)
            self.home.write_configuration(state, java.message_bytes(self._settings))
            command = java.command(self._settings, self.home, classes)
            if not self.home.formatted:
                self._format(command)
            self._progress.say(f"Starting the embedded Kafka on {state.address}, data in {self.home.path}")
            if self._came_up(state, [*command, "kafka.Kafka", str(self.home.properties)], deadline, detached=detached):
                return state.address
            said = self.home.tail()
            if attempt < PORT_TRIES and java.port_was_taken(said):
                kept = None
                continue
            break
        raise EmbeddedKafkaError(
            f"the embedded Kafka in {self.home.path} did not come up within {self._start_timeout_secs:g} s: "
            f"{self._explain(said)}\nIts last words, from {self.home.log} and {self.home.console}:\n"
            f"{said}"
        )

    def _came_up(self, state: State, program: list[str], deadline: float, *, detached: bool) -> bool:
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        self._truncate_logs()
        if detached:
            pid = process.start_detached(program, environment=environment, output=self.home.console)
        else:
            self._child = process.start_attached(program, environment=environment, output=self.home.console)
            pid = self._child.pid
        identity = process.identify(pid)
        if identity is None:
            self._collect()
            return False
        state = replace(state, process=identity, parent=None if detached else process.myself())
        self.home.write(state)
        try:
            if self._answers(state, identity, deadline):
                self.home.write(replace(state, ready=True))
                return True
        except BaseException:
            self._abandon(identity)
            raise
        self._abandon(identity)
        return False

    def _abandon(self, identity: process.Identity) -> None:
        process.stop(identity, 1.0)
        self._collect()

    def _answers(self, state: State, identity: process.Identity, deadline: float) -> bool:
        from app.embedded import readiness  # noqa: PLC0415  Takes 0.3 s to import: Java starts meanwhile.

        # In a thread of its own, so that this may be called inside a running loop.
        with ThreadPoolExecutor(1, thread_name_prefix="kafka-ready") as pool:
            probe = readiness.answers(state.address, lambda: identity.alive and time.monotonic() < deadline)
            return pool.submit(asyncio.run, probe).result()

    def _format(self, command: list[str]) -> None:
        # As Kafka makes them: 16 bytes in 22 characters, and no hyphen in front, which would be an option.
        cluster = "S" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted"]
        answer = subprocess.run(  # noqa: S603  The program is Java by its path.
            [*command, *tool, "-t", cluster, "-c", str(self.home.properties)],
            capture_output=True,
            text=True,
            timeout=self._start_timeout_secs,
            check=False,
        )
        if answer.returncode:
            said = (answer.stdout + answer.stderr).strip()
            raise EmbeddedKafkaError(
                f"the embedded Kafka could not make {self.home.log_directory} ready: "
                f"{self._explain(said)}\nIts last words:\n{said[-4000:]}"
            )

    def _require_disk(self) -> None:
        free = shutil.disk_usage(self.home.path).free
        if free < LEAST_FREE_BYTES:
            raise EmbeddedKafkaError(
                f"the disk of {self.home.path} has {free / 1e6:.0f} MB left and the embedded Kafka needs "
                f"{LEAST_FREE_BYTES / 1e6:.0f} MB to start: free space there, or set SLUICE_DATA_DIR to another disk"
            )

    def _truncate_logs(self) -> None:
        """An old failure must not explain a new one."""
        self.home.console.unlink(missing_ok=True)
        if self.home.log.exists():
            self.home.log.replace(self.home.log.with_suffix(".log.previous"))

    def _collect(self) -> None:
        """Our child is over, and off the system's list."""
        if self._child is not None:
            self._child.kill()  # Nothing happens to one that has ended.
            self._child.wait()
            self._child = None


def locate(settings: Settings) -> tuple[str, ...]:
    """
    The brokers to use: SLUICE_BROKERS, else the embedded one of the data directory.

    Raises BrokerError when there is neither.
    """
    if settings.brokers:
        return settings.brokers
    address = EmbeddedKafka(settings).status()
    if address is None:
        raise BrokerError(
            f"no Kafka: SLUICE_BROKERS is not set and the embedded one in {settings.data_dir / 'kafka'} is not up; "
            "run `sluice run` or `sluice kafka start` with the same SLUICE_DATA_DIR, or set SLUICE_BROKERS"
        )
    return (address,)
