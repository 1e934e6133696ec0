"""What can be configured: one file a transport, found by its name. Options are declared here once."""

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import cast

from schemas._options import Options, Retry, option
from schemas._section import Section, SectionField
from schemas._variables import Variable

__all__ = ["Options", "Retry", "Section", "SectionField", "Variable", "envelope_keys", "module", "option", "options"]
__all__ += ["section", "transports", "variables"]


@cache
def transports() -> tuple[str, ...]:
    """The names of all transports this build knows, sorted."""
    here = Path(__file__).parent
    return tuple(sorted(path.stem for path in here.glob("*.py") if not path.stem.startswith("_")))


@cache
def module(transport: str) -> ModuleType:
    """The module of a transport; KeyError when there is none."""
    if transport not in transports():
        raise KeyError(transport)
    return import_module(f"schemas.{transport}")


def options(transport: str) -> type[Options]:
    """The options of one destination of this transport, as written under `to:` in pipelines.yaml."""
    return cast("type[Options]", module(transport).Options)


def section(transport: str) -> Section:
    """The shape of an instance's section: bodies of `set`, rows of `find` (contract, section 3)."""
    return cast("Section", module(transport).SECTION)


def envelope_keys(transport: str) -> tuple[str, ...]:
    """The envelope's keys in their exact order on this transport (contract 7.1)."""
    return cast("tuple[str, ...]", module(transport).ENVELOPE)


def variables(transport: str) -> tuple[Variable, ...]:
    """The environment variables of this transport (contract 11)."""
    return cast("tuple[Variable, ...]", module(transport).VARIABLES)
