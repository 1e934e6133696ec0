"""What an event is once it has been read: the one form every room passes on."""

from collections.abc import Mapping
from typing import Any

DEFAULT_ORDER_KEY = ""
"""The order key of what belongs to no conversation: the instance itself."""


class Event:
    """
    One record of `events`, decoded.

    `name` is the wire name (`messages.upsert`) whatever spelling the producer chose; a well-formed name that the
    catalogue does not know stands as it came, lower-case. `only`, if given, lists the transports that may have it.
    """

    __slots__ = (
        "config_offset",
        "data",
        "date_time",
        "extra",
        "given_id",
        "id",
        "instance",
        "name",
        "offset",
        "only",
        "partition",
        "sender",
        "size",
        "timestamp_ms",
    )

    def __init__(
        self,
        *,
        instance: str,
        name: str,
        data: Any,
        id: str,  # noqa: A002  An event's id is its `id`, in every document.
        partition: int,
        offset: int,
        timestamp_ms: int,
        size: int,
        given_id: bool = False,
        sender: str | None = None,
        date_time: str | None = None,
        extra: Mapping[str, Any] | None = None,
        only: tuple[str, ...] | None = None,
        config_offset: int = -1,
    ) -> None:
        self.instance = instance
        self.name = name
        self.data = data
        self.id = id
        self.given_id = given_id
        """Whether the producer gave the id (and so may have sent the event twice)."""
        self.partition = partition
        self.offset = offset
        self.timestamp_ms = timestamp_ms
        """When the log took it, epoch milliseconds."""
        self.size = size
        """Bytes of the record's value."""
        self.sender = sender
        self.date_time = date_time
        self.extra = extra
        self.only = only
        self.config_offset = config_offset
        """The offset of the table that its producer had applied; -1 when unknown."""

    def view(self) -> dict[str, Any]:
        """What patterns, JMESPath expressions and templates of pipelines.yaml see."""
        return {
            "id": self.id,
            "instance": self.instance,
            "event": self.name,
            "data": self.data,
            "sender": self.sender,
            "date_time": self.date_time,
            "position": {"partition": self.partition, "offset": self.offset},
        }


class Poison(Exception):
    """A record that is no event. `reason` is for the dead letter and says what was wrong."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
