"""What can go wrong with the table, named by what the caller must do."""

from collections.abc import Iterable


class TableError(Exception):
    """The configuration table could not do what was asked."""


class Conflict(TableError):
    """Somebody else changed the rows first; nothing was changed. Compute again from the rows as they stand now."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = tuple(sorted(keys))
        shown = ", ".join(self.keys[:5]) + (f" and {len(self.keys) - 5} more" if len(self.keys) > 5 else "")
        super().__init__(f"Changed meanwhile by somebody else: {shown}. Nothing was written; compute again.")


class TableUnavailable(TableError):
    """Kafka, or this process's reading of it, does not keep up; the message says whether something may be written."""


class TooLarge(TableError):
    """The rows do not fit into one record batch; nothing was written. Apply them in parts."""


class StoreLocked(TableError):
    """Another live process has the store's directory. Stop it, or give this one a data directory of its own."""


class StoreBroken(TableError):
    """The store on disk cannot be read; it is rebuilt from the topic at the next start."""
