"""The jars of the embedded Kafka: a pinned list, fetched once for all data directories, each checked by its SHA-256."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import orjson

from app.embedded.errors import EmbeddedKafkaError
from app.embedded.progress import Reporter

PARALLEL_FETCHES = 4
FETCH_TIMEOUT_SECS = 30
FETCH_TRIES = 2
"""A jar that arrives torn is fetched once more; one that is wrong twice is refused."""
MARKER = "complete.json"
STAGING = "fetching-"
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""Of this machine, where all else that goes wrong in a fetch is the way to the far end."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One jar of the list: its coordinates and the SHA-256 of its bytes."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """As it is called in the cache."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def coordinates(self) -> str:
        """`group:artifact:version`, as the list spells it."""
        return f"{self.group}:{self.artifact}:{self.version}"


Download = Callable[[Jar, Path], Path]
"""Brings one jar into a directory of its own and returns where it lies; may raise anything."""


def pinned() -> tuple[Jar, ...]:
    """The list that stands beside this module."""
    return parse((files("app.embedded") / "kafka-jars.txt").read_text("utf-8"))


def parse(text: str) -> tuple[Jar, ...]:
    """The jars of a list: one a line, `group:artifact:version sha256`; blank lines and those behind a # are skipped."""
    jars = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            coordinates, sha256 = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(Jar(group, artifact, version, sha256))
    return tuple(jars)


def directory(cache_dir: Path, jars: tuple[Jar, ...]) -> Path:
    """Where this very list is kept: another list is another directory, so two versions share a cache."""
    digest = hashlib.sha256("".join(jar.coordinates + jar.sha256 for jar in jars).encode()).hexdigest()
    return cache_dir / f"kafka-jars-{digest[:12]}"


def class_path(
    cache_dir: Path, reporter: Reporter, *, jars: tuple[Jar, ...] | None = None, download: Download | None = None
) -> str:
    """
    The class path of the embedded Kafka, all jars present and as pinned; what is missing is fetched.

    A warm call reads one small file and the status of each jar; a jar that was touched since it was checked is hashed
    again. Several processes may call at once: one fetches, the others wait for it.

    Raises EmbeddedKafkaError.
    """
    jars = pinned() if jars is None else jars
    home = directory(cache_dir, jars)
    if not _complete(home, jars):
        try:
            home.mkdir(parents=True, exist_ok=True)
            with _locked(home / "lock"):
                if not _complete(home, jars):
                    _fill(home, jars, reporter, download or _from_repository)
        except OSError as error:
            raise EmbeddedKafkaError(
                f"the jars of the embedded Kafka cannot be kept in {home}: {error}; "
                "free space or set SLUICE_CACHE_DIR to a directory that can be written"
            ) from error
    return os.pathsep.join(str(home / jar.filename) for jar in jars)


def _complete(home: Path, jars: tuple[Jar, ...]) -> bool:
    """Whether each jar is the file that was hashed: same size, same time of change."""
    try:
        seen = orjson.loads((home / MARKER).read_bytes())
        return all(seen.get(jar.filename) == _stamp(home / jar.filename) for jar in jars)
    except (OSError, ValueError, AttributeError):
        return False  # Nothing kept, or kept badly: the caller fetches.


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fill(home: Path, jars: tuple[Jar, ...], reporter: Reporter, download: Download) -> None:
    wanted = [jar for jar in jars if _sha256(home / jar.filename) != jar.sha256]
    if wanted:
        for left in home.glob(f"{STAGING}*"):  # By a fetch that was killed.
            shutil.rmtree(left, ignore_errors=True)
        reporter.say(f"Fetching {len(wanted)} of the {len(jars)} jars of the embedded Kafka, once, into {home}")
        with tempfile.TemporaryDirectory(dir=home, prefix=STAGING) as staging:
            _fetch(home, wanted, reporter, download, Path(staging))
    partial = home / f"{MARKER}.partial"
    partial.write_bytes(orjson.dumps({jar.filename: _stamp(home / jar.filename) for jar in jars}))
    partial.replace(home / MARKER)


def _fetch(home: Path, wanted: list[Jar], reporter: Reporter, download: Download, staging: Path) -> None:
    size_bytes = 0
    lock = threading.Lock()

    def one(jar: Jar) -> int:
        path = _checked(jar, staging, download)
        with lock:
            path.replace(home / jar.filename)
        return (home / jar.filename).stat().st_size

    with ThreadPoolExecutor(PARALLEL_FETCHES, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(one, jar) for jar in wanted]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                size_bytes += future.result()
                reporter.step(done, len(wanted), size_bytes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            reporter.close()


def _checked(jar: Jar, staging: Path, download: Download) -> Path:
    found = ""
    for attempt in range(FETCH_TRIES):
        place = staging / f"{jar.artifact}-{attempt}"
        try:
            path = download(jar, place)
        except Exception as error:  # The client raises its own, requests' and the system's errors alike.
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            raise EmbeddedKafkaError(
                f"fetching {jar.coordinates} for the embedded Kafka failed: {error}; check the network or proxy "
                "(a mirror may be named under [repositories] in jgo's configuration file) and start again, "
                "or set SLUICE_BROKERS to a Kafka that is there"
            ) from error
        found = _sha256(path)
        if found == jar.sha256:
            return path
        shutil.rmtree(place, ignore_errors=True)
    raise EmbeddedKafkaError(
        f"{jar.coordinates} was fetched {FETCH_TRIES} times with SHA-256 {found} where {jar.sha256} is pinned; "
        "it is not used: find out who changes it on the way (a proxy, a mirror), then start again"
    )


def _from_repository(jar: Jar, place: Path) -> Path:
    from jgo.config import GlobalSettings  # noqa: PLC0415  Takes 0.2 s, and a warm start never needs it.
    from jgo.maven import MavenContext  # noqa: PLC0415  As above.

    context = MavenContext(repo_cache=place, timeout=FETCH_TIMEOUT_SECS)
    context.remote_repos = {**GlobalSettings.load().repositories, **context.remote_repos}
    path: Path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    return path


def _sha256(path: Path) -> str:
    """The digest of a file, or nothing when it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
