"""The disk cap of the embedded Kafka."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.embedded.disk import least_cap, retention
from app.embedded.errors import EmbeddedKafkaError


@given(
    cap=st.integers(1 << 26, 1 << 45),
    partitions=st.integers(1, 1000),
    record=st.integers(1024, 100 << 20),
)
def test_all_partitions_together_stay_under_the_cap(cap: int, partitions: int, record: int) -> None:
    """What retention leaves and the segment that is written to never exceed the cap, and any record fits a segment."""
    if cap // partitions < least_cap(1, record):
        with pytest.raises(EmbeddedKafkaError, match="SLUICE_KAFKA_DISK_BYTES"):
            retention(cap, partitions, record)
        return
    limits = retention(cap, partitions, record)
    assert partitions * (limits.retention_bytes + limits.segment_bytes) <= cap
    assert limits.segment_bytes >= record
    assert limits.retention_bytes >= limits.segment_bytes


def test_the_least_cap_is_accepted() -> None:
    """The number that the refusal names is enough."""
    assert retention(least_cap(12, 17 << 20), 12, 17 << 20).segment_bytes == 17 << 20
