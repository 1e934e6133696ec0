"""From a file to what it says, or to everything that is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from re import compile as compile_pattern
from typing import Any

from pydantic import ValidationError

from app.config import layouts
from app.config.layouts import LayoutDifferences, LayoutError
from app.config.pipelines import sections
from app.config.pipelines.model import NAME, Case, File, InstanceEntry, Pipeline, PipelineEntry, event_faults
from app.config.pipelines.positions import Document, read
from app.config.pipelines.problems import Fault, Problem, faults_of, nearest

MAX_BYTES = 4 << 20
"""Some 10,000 instances; one apply is one record batch of at most 16 MiB (design 5)."""
MAX_PIPELINES = 1000
"""Each is compiled for every instance it takes events from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a pipelines.yaml says. Where `errors` is not empty it says nothing that may be applied."""

    file: str
    instances: Mapping[str, InstanceEntry] = field(default_factory=dict)
    pipelines: Mapping[str, PipelineEntry] = field(default_factory=dict)
    retry: Mapping[str, Any] = field(default_factory=dict)
    """`defaults.retry`, as far as it was given."""
    defaults_line: int = 1
    layout: str | None = None
    layouts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The user's own, as written."""
    layout_lines: Mapping[str, int] = field(default_factory=dict)
    tests: tuple[Case, ...] = ()
    problems: tuple[Problem, ...] = ()
    digest: str = ""
    """Of the file's bytes; empty where there are none."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that keep it from being applied."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def load(path: Path) -> Loaded:
    """What a file says. Never raises: a file that cannot be read is a problem like any other."""
    file = path.name
    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        return Loaded(file=file, problems=(Problem(file, 0, 0, "error", "file.unreadable", message),))
    return parse(content, file)


def parse(content: bytes, file: str = "pipelines.yaml") -> Loaded:
    """What the bytes of a file say."""
    return replace(_parsed(content, file), digest=blake2b(content, digest_size=16).hexdigest())


def _parsed(content: bytes, file: str) -> Loaded:
    if len(content) > MAX_BYTES:
        message = f"a file has at most {MAX_BYTES >> 20} MiB; instances beyond that are set through the API"
        return Loaded(file=file, problems=(Problem(file, 0, 0, "error", "file.size", message),))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        message = f"not UTF-8: byte 0x{content[error.start]:02x}; save the file as UTF-8"
        place = (before.count(b"\n") + 1, column)
        return Loaded(file=file, problems=(Problem(file, *place, "error", "file.encoding", message),))
    document = read(file, text)
    if document.root is None and document.problems:
        return Loaded(file=file, problems=tuple(document.problems))
    return _Checker(document).loaded()


class _Checker:
    """Goes through a document part by part, so that what is wrong in one does not hide what is wrong in another."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._faults: list[Fault] = []

    def loaded(self) -> Loaded:
        data = self._document.data
        if not isinstance(data, dict):
            self._faults.append(Fault((), "type.wrong", "a mapping is wanted, beginning with `version: 1`"))
            data = {}
            top = None
        else:
            top = self._top(data)
        own_layouts = self._layouts(data.get("layouts"))
        names = {*layouts.SHIPPED, *(raw if isinstance(raw := data.get("layouts"), dict) else ())}
        self._layout_name(data.get("layout"), names, "layout")
        instances = self._instances(data.get("instances"), names)
        pipelines = self._pipelines(data.get("pipelines"))
        self._expectations(data.get("tests"), data.get("pipelines"))
        found = {*self._document.problems, *(self._document.problem(fault) for fault in self._faults)}
        problems = tuple(sorted(found, key=lambda problem: (problem.line, problem.column, problem.message)))
        file = self._document.file
        if top is None or any(problem.severity == "error" for problem in problems):
            return Loaded(file=file, problems=problems)
        return Loaded(
            file=file,
            instances=instances,
            pipelines=pipelines,
            retry=top.defaults.retry,
            defaults_line=self._document.line("defaults"),
            layout=top.layout,
            layouts=own_layouts,
            layout_lines={name: self._document.line("layouts", name) for name in own_layouts},
            tests=top.tests,
            problems=problems,
        )

    def _top(self, data: dict[str, Any]) -> File | None:
        try:
            return File.model_validate(data)
        except ValidationError as error:
            keys = tuple(File.model_fields)
            version = Fault(("version",), "version.unknown", "this release reads `version: 1`")
            self._faults += [version if one.path == ("version",) else one for one in faults_of(error, keys)]
            return None

    def _layouts(self, raw: Any) -> dict[str, Mapping[str, Any]]:
        """The user's own layouts, as written, without those that do not hold together."""
        given = raw if isinstance(raw, dict) else {}
        differences: dict[str, LayoutDifferences] = {}
        for name, body in given.items():
            try:
                differences[name] = LayoutDifferences.model_validate(body)
            except ValidationError as error:
                keys = tuple(LayoutDifferences.model_fields)
                self._faults += [fault.below("layouts", name) for fault in faults_of(error, keys)]
        while True:
            try:
                layouts.build(differences)
            except LayoutError as error:
                broken = differences.pop(error.where[0])
                # One that starts from a broken one is not wrong itself.
                if error.where[1:] != ("base",) or broken.base in differences or broken.base not in given:
                    self._faults.append(Fault(("layouts", *error.where), "layout.invalid", str(error)))
            else:
                return {name: given[name] for name in differences}

    def _layout_name(self, name: Any, known: set[str], *path: str) -> None:
        if isinstance(name, str) and name not in known:
            message = f"there is no layout `{name}`; there are {', '.join(sorted(known))}"
            self._faults.append(Fault(path, "layout.unknown", message, nearest(name, known)))

    def _instances(self, raw: Any, known_layouts: set[str]) -> dict[str, InstanceEntry]:
        entries = {}
        for name, body in (raw if isinstance(raw, dict) else {}).items():
            here = ("instances", name)
            keys = body if isinstance(body, dict) else {}
            lines = {key: self._document.line(*here, key) for key in keys}
            entry, faults = sections.instance(name, body, self._document.line(*here), lines)
            self._faults += [fault.below(*here) for fault in faults]
            self._layout_name(keys.get("layout"), known_layouts, *here, "layout")
            if entry is not None:
                entries[name] = entry
        return entries

    def _pipelines(self, raw: Any) -> dict[str, PipelineEntry]:
        given = raw if isinstance(raw, dict) else {}
        if len(given) > MAX_PIPELINES:
            self._faults.append(Fault(("pipelines",), "value.limit", f"a file has at most {MAX_PIPELINES} pipelines"))
            return {}
        entries = {}
        for name, body in given.items():
            here = ("pipelines", name)
            spec, faults = pipeline(name, body)
            self._faults += [fault.below(*here) for fault in faults]
            if spec is not None:
                entries[name] = PipelineEntry(name=name, line=self._document.line(*here), spec=spec)
        self._renames(given)
        return entries

    def _expectations(self, tests: Any, pipelines: Any) -> None:
        known = pipelines if isinstance(pipelines, dict) else {}
        for index, case in enumerate(tests if isinstance(tests, list) else []):
            expected = case.get("expect") if isinstance(case, dict) else None
            for name in expected if isinstance(expected, dict) else ():
                if name not in known:
                    path, message = ("tests", index, "expect", name), f"there is no pipeline `{name}`"
                    self._faults.append(Fault(path, "name.unknown", message, nearest(name, known), at_key=True))

    def _renames(self, given: Mapping[str, Any]) -> None:
        former: dict[str, str] = {}
        for name, body in given.items():
            before = body.get("renamed_from") if isinstance(body, dict) else None
            if not isinstance(before, str):
                continue
            at = ("pipelines", name, "renamed_from")
            if before in given:
                self._faults.append(Fault(at, "name.duplicate", f"a pipeline is called `{before}` still"))
            elif before in former:
                message = f"`{former[before]}` was renamed from `{before}` too"
                self._faults.append(Fault(at, "name.duplicate", message))
            former[before] = name


def pipeline(name: str, raw: Any) -> tuple[Pipeline | None, list[Fault]]:
    """One entry of `pipelines:`, and what is wrong with it."""
    faults: list[Fault] = []
    if compile_pattern(NAME).fullmatch(name) is None:
        rule = "1 to 100 letters, digits, dots, underscores or hyphens, a letter or digit first"
        faults.append(Fault((), "name.invalid", f"no pipeline can have this name: {rule}", at_key=True))
    if not isinstance(raw, dict):
        return None, [*faults, Fault((), "type.wrong", "a pipeline is a mapping with `from:` and `to:`")]
    found, wrong = sections.targets(raw.get("to"))
    faults += [fault.below("to") for fault in wrong]
    if raw.get("order") == "key" and "key" not in raw:
        faults.append(Fault(("order",), "key.missing", "`order: key` needs `key:`, the expression that names the key"))
    if "key" in raw and raw.get("order") != "key":
        faults.append(Fault(("key",), "key.unused", "`key:` says nothing without `order: key`", at_key=True))
    names = raw["from"].get("events") if isinstance(raw.get("from"), dict) else None
    if isinstance(names, list):
        faults += [one.below("from", "events") for one in event_faults(names)]
    whole = {**raw, "to": found} if isinstance(raw.get("to"), list) and raw["to"] else raw
    try:
        spec = Pipeline.model_validate(whole)
    except ValidationError as error:
        keys = tuple(info.alias or key for key, info in Pipeline.model_fields.items())
        # What stands below `to` was checked above, entry by entry, under the names it has in the file.
        faults += [one for one in faults_of(error, keys) if not wrong or one.path[:1] != ("to",)]
        return None, faults
    return spec, faults
