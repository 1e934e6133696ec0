"""What must be put right in aiokafka itself until a release of it does."""

import inspect
from importlib.metadata import version
from typing import Any

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord

METHOD = "_contains_abort_marker"
ORIGINAL = getattr(PartitionRecords, METHOD, None)
"""What the installed client brings."""


class RepairError(Exception):
    """The installed aiokafka is not the one that the repair was made for; the message says what to look at."""


def apply() -> None:
    """
    A consumer reads over an empty control batch when this returns; it may be called any number of times.

    The cleaner may keep the marker of an aborted transaction as a batch without records (KAFKA-7467). Kafka's own
    client skips it; aiokafka raises at it for ever, so that the partition cannot be read any more (fencing.md, What we
    build, 3). Raises RepairError where there is nothing to repair in the way we know.
    """
    found = getattr(PartitionRecords, METHOD, None)
    if found is _contains_abort_marker:
        return
    if found is None or list(inspect.signature(found).parameters) != ["self", "next_batch"]:
        raise RepairError(
            f"aiokafka {version('aiokafka')} has no PartitionRecords.{METHOD}(next_batch): see in tests/unit/"
            "test_repairs.py whether it reads over an empty control batch by itself, and take this repair out or adapt "
            "it; without it a quiet partition of `lanes` may become unreadable"
        )
    setattr(PartitionRecords, METHOD, _contains_abort_marker)


def _contains_abort_marker(self: Any, next_batch: Any) -> bool:  # noqa: ARG001  It becomes a method.
    marker = next(next_batch, None)
    return marker is not None and ControlRecord.parse(marker.key) == ABORT_MARKER
