"""The disk cap of the embedded Kafka, spread over partitions as retention."""

from dataclasses import dataclass

from app.embedded.errors import EmbeddedKafkaError

MEBIBYTE = 1 << 20
LARGEST_SEGMENT_BYTES = 64 * MEBIBYTE
SMALLEST_SEGMENT_BYTES = MEBIBYTE
"""Kafka 4 refuses less (KIP-1030)."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What a topic is told so that each of its partitions stays under its share."""

    retention_bytes: int
    segment_bytes: int


def retention(cap_bytes: int, partitions: int, record_bytes: int) -> Retention:
    """
    How a topic of so many partitions stays under the cap, when its largest batch has `record_bytes`.

    Kafka removes whole segments, never the one it writes to, so a partition takes up to `retention_bytes` and one
    segment; a segment must hold the largest batch.

    Raises EmbeddedKafkaError when not even two segments a partition fit.
    """
    share = cap_bytes // partitions
    smallest = max(SMALLEST_SEGMENT_BYTES, record_bytes)
    if share < 2 * smallest:
        raise EmbeddedKafkaError(
            f"a disk cap of {cap_bytes} bytes over {partitions} partitions leaves {share} bytes each, and two segments "
            f"of {smallest} bytes are the least: set SLUICE_KAFKA_DISK_BYTES to {2 * smallest * partitions} or more, "
            "or lower SLUICE_MAX_EVENT_BYTES or SLUICE_PARTITIONS"
        )
    segment = max(smallest, min(LARGEST_SEGMENT_BYTES, share // 8))
    return Retention(retention_bytes=share - segment, segment_bytes=segment)


def least_cap(partitions: int, record_bytes: int) -> int:
    """The smallest cap that `retention` accepts."""
    return 2 * max(SMALLEST_SEGMENT_BYTES, record_bytes) * partitions
