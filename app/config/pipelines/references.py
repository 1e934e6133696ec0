"""References to secrets in the texts of the file: checked for their form here, resolved where they are used."""

from collections.abc import Iterator
from typing import Any

from app.config import secrets
from app.config.pipelines.problems import Fault
from app.config.secrets import SecretError


def reference_faults(value: Any) -> Iterator[Fault]:
    """What is wrong with the references in all texts of a value."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from (fault.below(key) for fault in reference_faults(child))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from (fault.below(index) for fault in reference_faults(child))
    elif isinstance(value, str):
        try:
            secrets.references(value)
        except SecretError as error:
            yield Fault((), "reference.invalid", str(error))
