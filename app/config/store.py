"""
What a process remembers of the table over a restart: each key, and the position up to which it was read.

Rows and position are written in one atomic batch, unsynced: after a crash of the machine the store is a little older,
never torn. It is a cache of the topic; whatever is wrong with it, it is thrown away and rebuilt, and a log line says
why.
"""

import shutil
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import orjson
import structlog
from rocksdict import AccessType, BlockBasedOptions, Options, Rdict, WriteBatch

from app.config.acceptance import Known, Step
from app.config.errors import StoreBroken, StoreLocked

log = structlog.get_logger(__name__)

FORMAT = 1
MEMORY_BYTES = 16 << 20
"""Write buffer; RocksDB's 64 MiB are for stores that are written all day."""
_META = b"meta"
_KNOWN = b"k/"
_LOOSE = b"l/"
"""Names the keys that have a loose end: a tombstone to forget, an ignored record to repair."""
_HEAD = struct.Struct(">qqqq?")
_DIRECTORY = "config"
_BROKEN = "config.broken"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A record that was read; if the topic holds another one there, it is another topic."""

    offset: int = -1
    timestamp: int = -1
    key: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the topic was read."""

    topic: str
    position: int = 0
    complete_from: int = 0
    anchor: Anchor = Anchor()
    reached_end_at: float = 0.0
    """Epoch seconds of the last time that nothing was left to read."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows by the first part of their key and its number of parts: `instance/2`."""
    format: int = FORMAT


class Store:
    """The store of one process, in a directory of its own. Its calls take microseconds and do not await."""

    def __init__(self, directory: Path, topic: str) -> None:
        self._path = directory / _DIRECTORY
        self._marker = directory / _BROKEN
        self._topic = topic
        self._rows: Rdict | None = None
        self.progress = Progress(topic)

    def open(self, max_age_secs: float) -> None:
        """
        Opens what is there, or begins anew where it is missing, broken, of another topic or too old.

        Raises StoreLocked when another live process has it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self._path.exists()
        try:
            self._rows = self._connect()
            problem = self._load(max_age_secs)
        except StoreLocked:
            raise
        except Exception as error:  # noqa: BLE001  The library raises bare exceptions of all kinds for a broken store.
            problem = f"it cannot be read: {error}"
        if problem and not fresh:
            self.rebuild(problem)

    def rebuild(self, reason: str) -> None:
        """Throws everything away; the topic has it all. Raises StoreBroken where the directory cannot be emptied."""
        log.warning("config.store.rebuilt", directory=str(self._path), reason=reason)
        self.close()
        try:
            if self._path.exists():
                shutil.rmtree(self._path)
            self._marker.unlink(missing_ok=True)
            self._rows = self._connect()
        except OSError as error:
            raise StoreBroken(
                f"The store in {self._path} is to be rebuilt ({reason}), but it cannot be emptied: {error}; "
                "remove that directory, it holds nothing that the topic does not"
            ) from error
        self.progress = Progress(self._topic)

    def close(self) -> None:
        """Lets go of the directory. May be called twice."""
        rows, self._rows = self._rows, None
        if rows is not None:
            rows.close()

    def known(self, key: str) -> Known | None:
        """What is remembered of a key."""
        found = self._get(_KNOWN + key.encode())
        return None if found is None else _decode(found)

    def known_many(self, keys: Iterable[str]) -> dict[str, Known]:
        """The same for many; those never seen are left out."""
        names = list(keys)
        if not names:
            return {}
        try:
            found = self._open()[[_KNOWN + name.encode() for name in names]]
        except Exception as error:
            raise self._broken(error) from error
        return {name: _decode(each) for name, each in zip(names, found, strict=True) if each is not None}

    def scan(self, prefix: str) -> Iterator[tuple[str, Known]]:
        """Every row whose key begins so, in the order of keys, as of this moment."""
        for name, stored in self._items(_KNOWN + prefix.encode()):
            known = _decode(stored)
            if known.value is not None:
                yield name[len(_KNOWN) :].decode(), known

    def loose(self) -> Iterator[str]:
        """The keys with loose ends."""
        for name, _ in self._items(_LOOSE):
            yield name[len(_LOOSE) :].decode()

    def write(self, known: Mapping[str, Known], progress: Progress) -> None:
        """Remembers all of it, or nothing where the process dies in between."""
        batch = WriteBatch(raw_mode=True)
        for key, each in known.items():
            name = key.encode()
            batch.put(_KNOWN + name, _encode(each))
            if each.value is None or each.needs_repair:
                batch.put(_LOOSE + name, b"")
            else:
                batch.delete(_LOOSE + name)
        batch.put(_META, orjson.dumps(asdict(progress)))
        self._write(batch)
        self.progress = progress

    def counted(self, step: Step) -> Mapping[str, int]:
        """The counts as they will be once the step is written."""
        if not step.changed:
            return self.progress.counts
        before = self.known_many(step.changed)
        counts = dict(self.progress.counts)
        for key in step.changed:
            was_there = key in before and before[key].value is not None
            difference = (step.known[key].value is not None) - was_there
            if difference:
                kind = f"{key.partition('/')[0]}/{key.count('/') + 1}"
                counts[kind] = counts.get(kind, 0) + difference
        return counts

    def forget(self, keys: Iterable[str]) -> None:
        """Drops what is remembered of deleted keys."""
        batch = WriteBatch(raw_mode=True)
        for key in keys:
            name = key.encode()
            batch.delete(_KNOWN + name)
            batch.delete(_LOOSE + name)
        self._write(batch)

    def _load(self, max_age_secs: float) -> str:
        """Reads how far the store is; why it is of no use, where it is not."""
        if self._marker.exists():
            return "a read from it had failed"
        found = self._get(_META)
        if found is None:
            return "it has no position"
        fields = orjson.loads(found)
        if fields["format"] != FORMAT:
            return f"it has format {fields['format']}, this version writes {FORMAT}"
        progress = replace(Progress(**fields), anchor=Anchor(**fields["anchor"]))
        if progress.topic != self._topic:
            return f"it is of the topic {progress.topic}"
        age = time.time() - progress.reached_end_at
        if age > max_age_secs:
            return f"it is {age / 3600:.1f} hours old, and deletions are kept in the topic for a day only"
        self.progress = progress
        return ""

    def _items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            for name, stored in self._open().items(from_key=prefix):
                if not name.startswith(prefix):
                    return
                yield name, stored
        except StoreBroken:
            raise
        except Exception as error:
            raise self._broken(error) from error

    def _get(self, key: bytes) -> bytes | None:
        try:
            found: bytes | None = self._open().get(key)
        except Exception as error:
            raise self._broken(error) from error
        return found

    def _write(self, batch: WriteBatch) -> None:
        try:
            self._open().write(batch)
        except Exception as error:
            raise self._broken(error) from error

    def _open(self) -> Rdict:
        if self._rows is None:
            raise StoreBroken(f"The store in {self._path} is closed")
        return self._rows

    def _broken(self, error: Exception) -> StoreBroken:
        if isinstance(error, StoreBroken):
            return error
        self._marker.touch()  # A store may open well and still have a block that cannot be read.
        return StoreBroken(
            f"The store in {self._path} cannot be read or written: {error}; see that the disk is not full. "
            "It is rebuilt from the topic at the next start"
        )

    def _connect(self) -> Rdict:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(MEMORY_BYTES)
        options.set_keep_log_file_num(2)
        table = BlockBasedOptions()
        table.set_bloom_filter(10, block_based=False)  # A load looks up a million keys that are not there.
        options.set_block_based_table_factory(table)
        try:
            return Rdict(str(self._path), options, access_type=AccessType.read_write())
        except Exception as error:
            if "While lock file" in str(error) or "lock hold by" in str(error):
                raise StoreLocked(
                    f"Another live process uses the store in {self._path}; stop it, or give this one a data "
                    "directory of its own (SLUICE_DATA_DIR)"
                ) from error
            raise


def _encode(known: Known) -> bytes:
    head = _HEAD.pack(known.changed, known.base, known.last, known.sure, known.value is not None)
    return head + (known.value or b"")


def _decode(stored: bytes) -> Known:
    changed, base, last, sure, has_value = _HEAD.unpack_from(stored)
    return Known(changed, base, last, sure, stored[_HEAD.size :] if has_value else None)
