"""Ids that say the same thing each time: over retries, crashes and redrives (design, section 3)."""

from hashlib import blake2b

_PURPOSE = b"sluice.delivery"
_BYTES = 16


def delivery_id(event_id: str, destination_id: str, replay: int = 0, *, instance: str = "") -> str:
    """
    The delivery of one event to one destination: 32 hexadecimal digits.

    `replay` is the replay's number, so that a far end which drops repeats takes a replay. `instance` keeps apart the
    events of two instances whose producer gave them the same id. The parts are hashed with their lengths, so no two
    different sets of parts read alike.
    """
    event = event_id.encode("utf-8", "surrogatepass")
    destination = destination_id.encode("utf-8", "surrogatepass")
    name = instance.encode("utf-8", "surrogatepass")
    lengths = b"%d.%d.%d." % (replay, len(event), len(destination))
    return blake2b(b"".join((lengths, event, destination, name)), digest_size=_BYTES, person=_PURPOSE).hexdigest()


def delivery_number(delivery: str) -> int:
    """A delivery id as a number of 128 bits: the XOR of many tells two sets of deliveries apart."""
    return int(delivery, 16)
