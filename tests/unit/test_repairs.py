"""What aiokafka cannot do without `app/log/repairs.py`."""

from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBase, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from app.log import repairs

PRODUCER = 7
ABORT, COMMIT = b"\0\0\0\0", b"\0\0\0\1"


def batch(offset: int, value: bytes) -> bytes:
    """A batch of one transactional record, as a broker gives it."""
    builder = DefaultRecordBatchBuilder(2, 0, 1, PRODUCER, 0, 0, 1000)
    builder.append(0, 1_700_000_000_000, b"lane", value, [])
    return _placed(bytes(builder.build()), offset)


def marker(offset: int, *keys: bytes) -> bytes:
    """A control batch at `offset`, with a record for each key: none is what the cleaner leaves of one."""
    header = DefaultRecordBase.HEADER_STRUCT
    attributes = DefaultRecordBase.TRANSACTIONAL_MASK | DefaultRecordBase.CONTROL_MASK
    builder = DefaultRecordBatchBuilder(2, 0, 1, PRODUCER, 0, -1, 1000)
    for key in keys:
        builder.append(0, 1_700_000_000_000, key, b"\0\0\0\0\0\0", [])
    body = bytes(builder.build())[header.size :] if keys else b""
    length = header.size - DefaultRecordBase.AFTER_LEN_OFFSET + len(body)
    at = 1_700_000_000_000
    whole = header.pack(offset, length, 0, 2, 0, attributes, 0, at, at, PRODUCER, 0, -1, len(keys)) + body
    return _placed(whole, offset)


def _placed(whole: bytes, offset: int) -> bytes:
    crc = calc_crc32c(whole[DefaultRecordBase.ATTRIBUTES_OFFSET :]).to_bytes(4, "big")
    crc_at = DefaultRecordBase.CRC_OFFSET
    return offset.to_bytes(8, "big") + whole[8:crc_at] + crc + whole[crc_at + 4 :]


def read(log: bytes, aborted: list[tuple[int, int]]) -> tuple[list[bytes], int]:
    """The values that a read_committed consumer gets from such an answer, and where it fetches next."""
    records: Any = fetcher.PartitionRecords(
        TopicPartition("lanes", 0), MemoryRecords(log), aborted, 0, None, None, True, fetcher.READ_COMMITTED
    )
    return [record.value for record in records], records.next_fetch_offset


EMPTIED = batch(0, b"first") + marker(1) + batch(2, b"second") + marker(3, COMMIT)


def test_an_empty_control_batch_is_read_over() -> None:
    """What the cleaner emptied does not end reading: what stands before and behind it comes."""
    repairs.apply()

    assert read(EMPTIED, []) == ([b"first", b"second"], 4)
    assert read(marker(0), []) == ([], 1)


def test_aborted_records_stay_hidden() -> None:
    """Repaired as well, an abort marker ends the aborted transaction, and nothing of that is seen."""
    repairs.apply()
    log = batch(0, b"aborted") + marker(1, ABORT) + batch(2, b"committed") + marker(3, COMMIT)

    assert read(log, [(PRODUCER, 0)]) == ([b"committed"], 4)


def test_without_the_repair_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client still needs it: the day this fails the repair can go."""
    monkeypatch.setattr(fetcher.PartitionRecords, repairs.METHOD, repairs.ORIGINAL)

    with pytest.raises(KafkaError, match="Control batch"):
        read(EMPTIED, [])


def test_the_repair_may_be_asked_for_again() -> None:
    """It is made once, however often clients are made."""
    repairs.apply()
    repaired = getattr(fetcher.PartitionRecords, repairs.METHOD)
    repairs.apply()

    assert getattr(fetcher.PartitionRecords, repairs.METHOD) is repaired


@pytest.mark.parametrize("found", [None, lambda: None])
def test_another_client_is_told(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    """A client whose insides differ is refused, in words that say what to look at."""
    if found is None:
        monkeypatch.delattr(fetcher.PartitionRecords, repairs.METHOD)
    else:
        monkeypatch.setattr(fetcher.PartitionRecords, repairs.METHOD, found)

    with pytest.raises(repairs.RepairError, match=r"aiokafka .* has no PartitionRecords"):
        repairs.apply()
