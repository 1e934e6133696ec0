"""
YAML as plain data that remembers where each value stands.

Built from the parser's events, since only so there is a limit on depth (composing 100,000 brackets ends a process).
Scalars are read by YAML 1.2's core rules, so `no` is a text and 12:30 is not 750. Duplicate keys and tags are
problems; anchors, aliases and `<<` are understood, within a limit on what they expand to.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from re import compile as compile_pattern
from typing import Any

import yaml

from app.config.pipelines.problems import Fault, Path, Problem

MAX_DEPTH = 60
"""No reasonable file nests deeper; validation and JSON recurse over what is read."""
MAX_VALUES = 500_000
"""Of a file, aliases expanded: nine lines of aliases can mean a billion values."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT_TAGS = ("tag:yaml.org,2002:str", "!")
_INTEGER = compile_pattern(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = compile_pattern(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_CONSTANTS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(frozen=True, slots=True)
class Place:
    """A line and a column, from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Node:
    """A value as it stands in the file."""

    place: Place
    value: Any = None
    """Of a scalar."""
    inline: bool = False
    """Whether a scalar is a text on one line without escapes, so that a character in it has a column of its own."""
    quoted: bool = False
    literal: bool = False
    """Whether a text stands behind `|`, line for line as it is."""
    items: "list[Node] | None" = None
    entries: "dict[str, tuple[Place, Node]] | None" = None
    merged: "list[Node]" = field(default_factory=list)
    """The mappings behind `<<`."""


@dataclass(slots=True)
class Document:
    """A file that has been read: its data, the places of all values, and the problems met so far."""

    file: str
    root: Node | None
    data: Any
    problems: list[Problem]
    lines: tuple[str, ...] = ()
    """The file as it stands."""

    def problem(self, fault: Fault) -> Problem:
        """A fault with its place."""
        place, node = self._find(fault.path, at_key=fault.at_key)
        message = fault.message
        if fault.offset and node is not None and not fault.at_key:
            inside = self._inside(node, fault.offset)
            if inside is None:
                message = f"{message} (character {fault.offset + 1} of the text)"
            place = inside or place
        return Problem(self.file, place.line, place.column, fault.severity, fault.rule, message, fault.near)

    def line(self, *path: str | int) -> int:
        """The line of a value's key (of the value itself in a list)."""
        return self._find(path, at_key=True)[0].line

    def _inside(self, node: Node, offset: int) -> Place | None:
        """The place of a text's character, where the text stands in the file as it is."""
        if node.inline:
            return Place(node.place.line, node.place.column + offset + node.quoted)
        before = node.value[:offset].split("\n") if node.literal and isinstance(node.value, str) else []
        number = node.place.line + len(before)
        if not before or number > len(self.lines):
            return None
        line = node.value.split("\n")[len(before) - 1]
        written = self.lines[number - 1]
        return Place(number, len(written) - len(line) + len(before[-1]) + 1) if written.endswith(line) else None

    def _find(self, path: Path, *, at_key: bool) -> tuple[Place, Node | None]:
        """The place of a path, or of as much of it as is there."""
        node = self.root
        place = node.place if node else Place(1, 1)
        for step in path:
            child = _child(node, step) if node else None
            if child is None:
                return place, None
            key_place, node = child
            place = key_place if at_key else node.place
        return place, node


def read(file: str, text: str) -> Document:
    """The document in a text. Where it is not YAML at all, `root` is None and the problems say why."""
    reader = _Reader(file)
    try:
        root = reader.document(yaml.parse(text, Loader=_Loader))
        data = None if root is None else _Expansion().plain(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(part for part in (error.problem, error.context) if part)
        reader.add(Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1), "yaml.syntax", words)
        return Document(file, None, None, reader.problems)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        reader.add(place, "yaml.syntax", f"a character that YAML does not allow: U+{ord_of(error.character):04X}")
        return Document(file, None, None, reader.problems)
    except _TooMuchError as error:
        reader.add(error.place, "yaml.limit", str(error))
        return Document(file, None, None, reader.problems)
    return Document(file, root, data, reader.problems, tuple(text.splitlines()))


def ord_of(character: Any) -> int:
    """The number of a character, however the parser hands it over."""
    if isinstance(character, int):
        return character
    if isinstance(character, bytes):
        return int.from_bytes(character[:1], "big")
    return ord(character[:1] or "\0")


class _TooMuchError(Exception):
    """More than a file may hold."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


class _Reader:
    """Turns the parser's events into nodes, without recursion."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._anchors: dict[str, Node] = {}
        self._open: list[tuple[Node, str | None]] = []
        """Collections that have not ended, the outermost first, with their anchors."""
        self._keys: list[tuple[str, Place] | None] = []
        """For each of them the key that waits for its value; None in lists and where a key comes next."""

    def add(self, place: Place, rule: str, message: str) -> None:
        self.problems.append(Problem(self.file, place.line, place.column, "error", rule, message))

    def document(self, events: Iterator[Any]) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in events:
            place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.add(place, "yaml.documents", "one document is wanted; remove the `---`")
                    return root
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                node, anchor = self._open.pop()
                self._keys.pop()
                if anchor is not None:
                    self._anchors[anchor] = node
                if not self._open:
                    root = node
            elif isinstance(event, yaml.NodeEvent):
                started = self._node(event, place)
                if not self._open:
                    root = started
                if isinstance(event, yaml.CollectionStartEvent):
                    self._open.append((started, event.anchor))
                    self._keys.append(None)
        return root

    def _node(self, event: Any, place: Place) -> Node:
        if len(self._open) > MAX_DEPTH:
            raise _TooMuchError(place, f"values stand in each other at most {MAX_DEPTH} deep")
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(event.anchor, place)
        elif isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, place)
            if event.anchor is not None:
                self._anchors[event.anchor] = node
        else:
            self._tag(event, place)
            mapping = isinstance(event, yaml.MappingStartEvent)
            node = Node(place, entries={} if mapping else None, items=None if mapping else [])
        self._attach(node, event, place)
        return node

    def _attach(self, node: Node, event: Any, place: Place) -> None:
        """Gives the node to the collection it stands in: as an item, a value, or the key of the value to come."""
        if not self._open:
            return
        parent = self._open[-1][0]
        if parent.items is not None:
            parent.items.append(node)
            return
        waiting = self._keys[-1]
        if waiting is None:
            self._keys[-1] = (self._key(event, place), place)
            return
        self._keys[-1] = None
        key, key_place = waiting
        entries = parent.entries if parent.entries is not None else {}
        if key == "<<":
            self._merge(parent, [node] if node.items is None else node.items)
        elif key in entries:
            first = entries[key][0]
            self.add(key_place, "key.duplicate", f"`{key}` stands here twice, first in line {first.line}")
        else:
            entries[key] = (key_place, node)

    def _merge(self, parent: Node, others: list[Node]) -> None:
        for other in others:
            if other.entries is None:
                self.add(other.place, "key.merge", "`<<` takes an alias of a mapping, or a list of them")
            else:
                parent.merged.append(other)

    def _key(self, event: Any, place: Place) -> str:
        if isinstance(event, yaml.ScalarEvent) and event.value:
            return str(event.value)
        self.add(place, "key.type", "a key is a text")
        # A key that is none still needs a name under which its value can be let go.
        return f"\0{place.line}:{place.column}"

    def _alias(self, anchor: Any, place: Place) -> Node:
        if anchor in self._anchors:
            return self._anchors[anchor]
        words = "stands within what it names" if any(anchor == name for _, name in self._open) else "names nothing"
        self.add(place, "yaml.alias", f"the alias `*{anchor}` {words}")
        return Node(place)

    def _tag(self, event: Any, place: Place) -> None:
        if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self.add(place, "yaml.tag", "tags are not understood here; write the value without")

    def _scalar(self, event: Any, place: Place) -> Node:
        text = event.value
        plain = event.implicit[0] and event.style in (None, "")
        one_line = event.start_mark.line == event.end_mark.line
        quotes = 0 if plain else 2
        inline = one_line and event.end_mark.column - event.start_mark.column == len(text) + quotes
        node = Node(place, text, inline=inline, quoted=not plain, literal=event.style == "|")
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            self.add(place, "yaml.tag", "tags are not understood here; write the value without")
        elif plain and event.tag is None:
            node.value = self._resolved(text, place)
        return node

    def _resolved(self, text: str, place: Place) -> Any:
        """A plain scalar's value by the core rules of YAML 1.2, as far as JSON can say it."""
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        number: int | float
        if len(text) > 100:
            return text
        if _INTEGER.fullmatch(text):
            number = int(text, 0 if text[:2] in ("0o", "0x") else 10)
            if -(1 << 63) <= number < 1 << 63:
                return number
        elif _FLOAT.fullmatch(text):
            number = float(text)
            if math.isfinite(number):
                return number
        else:
            return text
        self.add(place, "type.wrong", "this number is too large; as a text it needs quotes")
        return text


class _Expansion:
    """Nodes as plain data, aliases repeated where they stand, within the limits."""

    def __init__(self) -> None:
        self._values = 0

    def plain(self, node: Node, depth: int = 0) -> Any:
        self._values += 1
        if self._values > MAX_VALUES or depth > 2 * MAX_DEPTH:
            raise _TooMuchError(node.place, f"more than {MAX_VALUES:,} values, or {2 * MAX_DEPTH} levels, with aliases")
        if node.items is not None:
            return [self.plain(item, depth + 1) for item in node.items]
        if node.entries is None:
            return node.value
        data = {key: self.plain(child, depth + 1) for key, (_, child) in node.entries.items() if key[0] != "\0"}
        for merged in node.merged:
            values = self.plain(merged, depth + 1)
            if isinstance(values, dict):
                data = {**values, **data}
        return data


def _child(node: Node, step: str | int) -> tuple[Place, Node] | None:
    """The entry or item of a node, with the place of its key; what was merged comes after what stands there."""
    if node.items is not None:
        item = node.items[step] if isinstance(step, int) and step < len(node.items) else None
        return None if item is None else (item.place, item)
    if node.entries is None:
        return None
    if str(step) in node.entries:
        return node.entries[str(step)]
    return next((found for merged in node.merged if (found := _child(merged, step))), None)
