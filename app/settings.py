"""
Every setting, declared once, and read once from the environment.

The table below, and each transport's own variables in `schemas/`, are the only places that name an environment
variable. `app/SETTINGS.md` is generated from them (`sluice settings --markdown`), and a test compares it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import schemas
from schemas import Variable
from schemas._variables import flag, integer, names, number

PUBLIC_DEFAULT_KEYS = frozenset({"BQYHJGJHJ", "429683C4C977415CAAFCCE10F7D57E11"})
"""Upstream's published keys (contract 11.1): whoever keeps one has no key."""

MEBIBYTE = 1 << 20
PREFIX = "SLUICE_"
"""Of the variables that are ours alone, so that a misspelt one can be told."""


class SettingsError(Exception):
    """One or more settings are wrong; the message lists all, a line each: variable, what is wrong, what to do."""


def _api_key(value: str) -> str:
    if value in PUBLIC_DEFAULT_KEYS:
        raise ValueError("this key is published in upstream's examples; choose one of your own")
    if len(value) < 8 or not value.isprintable() or not value.isascii():
        raise ValueError("at least 8 printable ASCII characters are wanted")
    return value


def _prefix(value: str) -> str:
    if not all(character.isalnum() or character in "._-" for character in value) or len(value) > 100:
        raise ValueError("letters, digits, dots, underscores and hyphens are wanted, at most 100")
    return value


def _egress_allow(value: str) -> tuple[str, ...]:
    from sinks._egress import EgressGuard  # noqa: PLC0415  Most verbs need no client.

    allowed = names(value)
    EgressGuard(allowed)
    return allowed


def _layout(value: str) -> str:
    from app.config.layouts import LayoutError, find  # noqa: PLC0415  Most verbs need no layouts.

    try:
        find(value)
    except LayoutError as error:
        raise ValueError(f"{error}; a layout of pipelines.yaml is named there, with `layout:`") from error
    return value


def _log_level(value: str) -> str:
    if value.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("debug, info, warning or error is wanted")
    return value.lower()


VARIABLES: tuple[Variable, ...] = (
    Variable(
        name="SLUICE_BROKERS",
        field="brokers",
        description="Kafka to use. Unset: `sluice run` brings its own, and the other verbs find it in the data "
        "directory.",
        default=(),
        parse=names,
        example="kafka-1:9092,kafka-2:9092",
    ),
    Variable(
        name="SLUICE_DATA_DIR",
        field="data_dir",
        description="Where this machine keeps its stores, its made keys and the embedded Kafka's log.",
        default=Path(".sluice"),
        parse=Path,
    ),
    Variable(
        name="SLUICE_CACHE_DIR",
        field="cache_dir",
        description="Where the embedded Kafka's jars are kept; all data directories share it.",
        default=Path("~/.cache/sluice"),
        parse=Path,
    ),
    Variable(
        name="SLUICE_JAVA",
        field="java",
        description="A Java (17 or newer) to run the embedded Kafka with, instead of the one that is installed along.",
    ),
    Variable(
        name="SLUICE_KAFKA_DISK_BYTES",
        field="kafka_disk_bytes",
        description="Most disk the embedded Kafka's log of events may take; the oldest goes first.",
        default=10 * 1024 * MEBIBYTE,
        parse=integer(64 * MEBIBYTE, 1 << 50),
        unit="bytes",
    ),
    Variable(
        name="SLUICE_TOPIC_PREFIX",
        field="topic_prefix",
        description="Begins the name of every topic and consumer group.",
        default="sluice.",
        parse=_prefix,
    ),
    Variable(
        name="SLUICE_PARTITIONS",
        field="partitions",
        description="Partitions of `events`; caps the workers for good. Unset: 12 on the embedded Kafka, else 48.",
        parse=integer(1, 1000),
    ),
    Variable(
        name="SLUICE_REPLICATION_FACTOR",
        field="replication_factor",
        description="Copies of every topic. Unset: 3, or the number of brokers where there are fewer.",
        parse=integer(1, 10),
    ),
    Variable(
        name="SLUICE_PIPELINES",
        field="pipelines",
        description="The file of instances and pipelines; missing is fine unless it is set.",
        default=Path("pipelines.yaml"),
        parse=Path,
    ),
    Variable(
        name="SLUICE_LAYOUT",
        field="layout",
        parse=_layout,
        description="How names are spelled on the wire, unless pipelines.yaml says otherwise: `documented` or "
        "`evolution-2.3`.",
        default="documented",
    ),
    Variable(
        name="SLUICE_MAX_EVENT_BYTES",
        field="max_event_bytes",
        description="The largest event; the limits of HTTP, producer, topic and consumer derive from it.",
        default=16 * MEBIBYTE,
        parse=integer(1024, 100 * MEBIBYTE),
        unit="bytes",
    ),
    Variable(
        name="SLUICE_EGRESS_ALLOW",
        field="egress_allow",
        description="Addresses that destinations may have although they are private: CIDRs and host patterns.",
        default=(),
        parse=_egress_allow,
        example="127.0.0.0/8,*.internal.example.com",
    ),
    Variable(
        name="SLUICE_MAX_INSTANCES",
        field="max_instances",
        description="Most instances; beyond it events of new names are dead-lettered and creation is refused.",
        default=1_000_000,
        parse=integer(1, 100_000_000),
    ),
    Variable(
        name="SLUICE_INGEST_EVENTS_PER_SECOND",
        field="ingest_events_per_second",
        description="Events per second that one instance may send over HTTP to one API process; 0 for no limit.",
        default=1000.0,
        parse=number(0, 1_000_000),
    ),
    Variable(
        name="SLUICE_INGEST_TIMEOUT_SECS",
        field="ingest_timeout_secs",
        description="Longest wait for Kafka to take an event sent over HTTP; then 503 with Retry-After.",
        default=10.0,
        parse=number(0.5, 120),
        unit="seconds",
    ),
    Variable(
        name="SLUICE_INGEST_BYTES",
        field="ingest_bytes",
        description="Most bytes of requests that one API process holds at once, at least four of the largest events; "
        "beyond it 503.",
        default=256 * MEBIBYTE,
        parse=integer(MEBIBYTE, 1 << 40),
        unit="bytes",
    ),
    Variable(
        name="SLUICE_STRICT_BODIES",
        field="strict_bodies",
        description="Whether `set` takes upstream's own bodies only (contract 3.1), not every spelling in use.",
        default=False,
        parse=flag,
    ),
    Variable(
        name="SLUICE_DUPLICATE_WINDOW_SECS",
        field="duplicate_window_secs",
        description="How long an event's id is remembered, so that one sent twice is delivered once.",
        default=600.0,
        parse=number(0, 86400),
        unit="seconds",
    ),
    Variable(
        name="SLUICE_DUPLICATE_WINDOW_EVENTS",
        field="duplicate_window_events",
        description="Most ids remembered for one partition.",
        default=20_000,
        parse=integer(0, 10_000_000),
    ),
    Variable(
        name="SLUICE_SLOTS",
        field="slots",
        description="Most events of one partition that may be read and not yet settled.",
        default=20_000,
        parse=integer(100, 10_000_000),
    ),
    Variable(
        name="SLUICE_SLOT_BYTES",
        field="slot_bytes",
        description="Most bytes of events, over all partitions of a worker, that may be read and not yet settled.",
        default=256 * MEBIBYTE,
        parse=integer(MEBIBYTE, 1 << 40),
        unit="bytes",
    ),
    Variable(
        name="SLUICE_MAX_IN_FLIGHT",
        field="max_in_flight",
        description="Most deliveries of one worker under way at once.",
        default=2048,
        parse=integer(1, 100_000),
    ),
    Variable(
        name="SLUICE_CONFIG_WAIT_SECS",
        field="config_wait_secs",
        description="Longest wait of a partition for the table to reach an event's `config-offset`.",
        default=10.0,
        parse=number(0, 600),
        unit="seconds",
    ),
    Variable(
        name="SLUICE_TABLE_TIMEOUT_SECS",
        field="table_timeout_secs",
        description="Longest wait for Kafka when the configuration table is written or read up to date; then 503.",
        default=10.0,
        parse=number(0.5, 120),
        unit="seconds",
    ),
    Variable(
        name="SLUICE_DRAIN_SECS",
        field="drain_secs",
        description="Longest wait for requests under way when partitions are handed over or a worker stops.",
        default=2.0,
        parse=number(0, 60),
        unit="seconds",
    ),
    Variable(
        name="SLUICE_SESSION_TIMEOUT_SECS",
        field="session_timeout_secs",
        description="How long the group waits for a worker that fell silent; the heartbeat is a quarter of it.",
        default=12.0,
        parse=number(1, 300),
        unit="seconds",
    ),
    Variable(
        name="SLUICE_METRICS_PUBLIC",
        field="metrics_public",
        description="Whether `/metrics` answers without a key.",
        default=False,
        parse=flag,
    ),
    Variable(
        name="SLUICE_LOG_LEVEL",
        field="log_level",
        description="What is logged: `debug`, `info`, `warning` or `error`.",
        default="info",
        parse=_log_level,
    ),
    Variable(
        name="SERVER_HOST",
        field="server_host",
        description="The address the API listens on.",
        default="0.0.0.0",  # noqa: S104  A server of a container's making; loopback is one setting away.
    ),
    Variable(
        name="SERVER_PORT",
        field="server_port",
        description="The port the API listens on.",
        default=8080,
        parse=integer(1, 65535),
    ),
    Variable(
        name="SERVER_URL",
        field="server_url",
        description="Where clients reach this server; stands as `server_url` in every envelope.",
        example="https://sluice.example.com",
    ),
    Variable(
        name="AUTHENTICATION_API_KEY",
        field="api_key",
        description="The global key. Unset: made once, kept in the data directory, shown at the first start.",
        parse=_api_key,
        secret=True,
    ),
    Variable(
        name="AUTHENTICATION_EXPOSE_IN_FETCH_INSTANCES",
        field="expose_tokens",
        description="Whether envelopes carry the instance's token as `apikey`; else it is null.",
        default=False,
        parse=flag,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, read. `transports` holds each transport's own, by transport and field."""

    brokers: tuple[str, ...]
    data_dir: Path
    cache_dir: Path
    java: str | None
    kafka_disk_bytes: int
    topic_prefix: str
    partitions: int | None
    replication_factor: int | None
    pipelines: Path
    layout: str
    max_event_bytes: int
    egress_allow: tuple[str, ...]
    max_instances: int
    ingest_events_per_second: float
    ingest_timeout_secs: float
    ingest_bytes: int
    strict_bodies: bool
    duplicate_window_secs: float
    duplicate_window_events: int
    slots: int
    slot_bytes: int
    max_in_flight: int
    config_wait_secs: float
    table_timeout_secs: float
    drain_secs: float
    session_timeout_secs: float
    metrics_public: bool
    log_level: str
    server_host: str
    server_port: int
    server_url: str | None
    api_key: str | None = field(repr=False)
    expose_tokens: bool
    transports: Mapping[str, Mapping[str, Any]] = field(repr=False)
    given: frozenset[str] = frozenset()
    """The names of the variables that were set."""

    def topic(self, name: str) -> str:
        """The full name of one of our topics."""
        return f"{self.topic_prefix}{name}"


def read(environment: Mapping[str, str] | None = None) -> Settings:
    """
    The settings of an environment (the process's own when none is given). A variable that is set but empty counts as
    unset, but for those that say an empty text means something.

    Raises SettingsError with every problem at once.
    """
    source = os.environ if environment is None else environment
    problems: list[str] = []

    def take(variables: tuple[Variable, ...]) -> dict[str, Any]:
        values = {}
        for variable in variables:
            given = source.get(variable.name)
            if given is None or (not given and not variable.empty_counts):
                values[variable.field] = variable.default
                continue
            try:
                values[variable.field] = variable.parse(given)
            except ValueError as error:
                shown = "***" if variable.secret else repr(given)
                problems.append(f"{variable.name}={shown}: {error}")
        return values

    values = take(VARIABLES)
    transports = {name: take(schemas.variables(name)) for name in schemas.transports()}
    if problems:
        raise SettingsError("\n".join(problems))
    for directory in ("data_dir", "cache_dir"):
        values[directory] = values[directory].expanduser().absolute()
    known = {variable.name for variable in all_variables()}
    given = frozenset(name for name in known if source.get(name))
    return Settings(**values, transports=transports, given=given)


def all_variables() -> tuple[Variable, ...]:
    """Ours, then each transport's."""
    return VARIABLES + tuple(variable for name in schemas.transports() for variable in schemas.variables(name))


def unknown(environment: Mapping[str, str]) -> list[str]:
    """A warning for each `SLUICE_*` variable that nobody reads, with the nearest name that is read."""
    # Without the prefix that all share and that makes any two look alike.
    known = [variable.name.removeprefix(PREFIX) for variable in all_variables() if variable.name.startswith(PREFIX)]
    warnings = []
    for name in sorted(environment):
        rest = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and rest not in known:
            near = get_close_matches(rest, known, n=1)
            warnings.append(f"{name} is not a setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else ""))
    return warnings


def markdown() -> str:
    """The table of all settings, for `app/SETTINGS.md`."""
    lines = [
        "# Settings",
        "",
        "All are environment variables, read once at start. Made by `sluice settings --markdown`; a test compares it.",
        "",
        "| variable | default | what it is |",
        "|---|---|---|",
    ]
    for variable in all_variables():
        default = f"`{words}`" if (words := shown(variable)) else ""
        example = f" Example: `{variable.example}`." if variable.example else ""
        unit = f" In {variable.unit}." if variable.unit else ""
        lines.append(f"| `{variable.name}` | {default} | {variable.description}{unit}{example} |")
    return "\n".join(lines) + "\n"


def shown(variable: Variable) -> str:
    """A default in the words of the environment."""
    value = variable.default
    if variable.default_text:
        return variable.default_text
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value)
