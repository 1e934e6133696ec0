"""The house rules (design, section 6: invariants written as absences; style.md). Each exception carries its reason."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "sinks", "app", "tests")
"""What stands further left knows nothing of what stands further right."""
TRANSPORTS = ("kafka", "nats", "pusher", "rabbitmq", "sqs", "webhook", "websocket")
LAYOUTS = ("documented", "evolution-2.3")
MAX_LINES = 400
NOT_OURS = {".git", ".venv", ".sluice", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__"}
NOT_OURS |= {"build", "dist", "results", "node_modules", "sluice.egg-info"}

# Where a rule has an exception, the file and the reason; a reason that is no longer needed fails.
LONG_FILES = {"app/settings.py": "every setting in one table"}
NAMES_A_TRANSPORT = {
    "app/cli.py": "`kafka` is a verb: the embedded broker, not the transport",
    "app/embedded/": "Kafka the log: its folder",
    "app/events/catalogue.py": "an event of the contract has the word in its name",
    "app/observe/logs.py": "a library's logger is called so",
    "app/config/layouts": "spells what each transport says",
    "app/demo/": "shows named transports",
}
NAMES_A_LAYOUT = {
    "app/config/layouts": "the table of layouts",
    "app/demo/": "shows one layout, whatever is set",
    "app/settings.py": "the default",
}
PRINTS = ("app/cli.py", "app/demo/")
MAY_IMPORT_FAUST = ("app/engine/app.py", "app/engine/agents/")
MAY_FIND_SINKS = ("app/engine/",)
CLOCKS_AND_IO = {
    "aiohttp", "aiokafka", "asyncio", "http", "io", "logging", "mode", "os", "pathlib", "random", "secrets", "socket",
    "structlog", "subprocess", "threading", "time", "urllib.request",
}  # fmt: skip

Finding = tuple[int, str]
Rule = Callable[[str, ast.Module], Iterator[Finding]]


@cache
def modules() -> dict[str, ast.Module]:
    """Every Python file of ours, parsed, by its path from the root."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"), str(path))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if not NOT_OURS & set(path.parts)
    }


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports; of `from a import b`, `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and value of every string that is not a docstring."""
    words = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in words:
            yield node.lineno, node.value


def below(name: str, package: str) -> bool:
    """Whether a full name is that package or stands in it."""
    return name == package or name.startswith(f"{package}.")


def imports_point_one_way(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Invariant 9: tests -> app -> sinks -> schemas."""
    own = PACKAGES.index(path.split("/", maxsplit=1)[0])
    for line, name in imports(tree):
        top = name.split(".")[0]
        if top in PACKAGES and PACKAGES.index(top) > own:
            yield line, f"imports {name}"


def no_relative_imports(_: str, tree: ast.Module) -> Iterator[Finding]:
    """Names are written in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "relative import"


def faust_behind_one_file(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Invariant 8; its tests may show what it does."""
    if not path.startswith((*MAY_IMPORT_FAUST, "tests/")):
        yield from ((line, name) for line, name in imports(tree) if below(name, "faust"))


def only_the_engine_finds_sinks(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Invariant 1: who has no sink can await none."""
    if path.startswith("app/") and not path.startswith(MAY_FIND_SINKS):
        for line, name in imports(tree):
            if below(name, "sinks.find") or (below(name, "sinks") and name.split(".")[1:2] and is_transport(name)):
                yield line, f"reaches {name}"


def is_transport(name: str) -> bool:
    """Whether a full name is that of a transport's module, or in it."""
    return name.split(".")[1] in TRANSPORTS


def sinks_keep_quiet(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Invariant 2: no sink sleeps or logs."""
    if path.startswith("sinks/"):
        for line, name in imports(tree):
            if below(name, "logging") or below(name, "structlog"):
                yield line, f"imports {name}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "sleep":
                yield node.lineno, "sleeps"


def routing_is_pure(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Invariant 3: `routing/` does no I/O and has no clock."""
    if not path.startswith("app/routing/"):
        return
    for line, name in imports(tree):
        if any(below(name, module) for module in CLOCKS_AND_IO):
            yield line, f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today"):
            yield node.lineno, f"asks the clock: {node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "input"):
            yield node.lineno, f"calls {node.func.id}"


def no_transport_is_named(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Invariant 4: nothing under `app/` names a transport."""
    if path.startswith("app/") and not path.startswith(tuple(NAMES_A_TRANSPORT)):
        yield from transport_names(tree)


def transport_names(tree: ast.Module) -> Iterator[Finding]:
    """
    Strings that are a transport's name or have one among their parts; sentences may speak of them.

    Kafka is the log as well: there only the bare name counts, and it as a part of a key or path.
    """
    for line, text in texts(tree):
        parts = set(re.split(r"[^a-z0-9]+", text.lower())) - {"kafka"} | set(text.split("/"))
        if " " not in text and parts & set(TRANSPORTS):
            yield line, f"names a transport: {text!r}"


def no_layout_is_named(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Invariant 5: nothing outside `config/layouts` knows a layout's name."""
    if not path.startswith((*NAMES_A_LAYOUT, "tests/")):
        yield from layout_names(tree)


def layout_names(tree: ast.Module) -> Iterator[Finding]:
    """Strings that are a layout's name."""
    yield from ((line, f"names a layout: {text!r}") for line, text in texts(tree) if text in LAYOUTS)


def only_the_door_prints(path: str, tree: ast.Module) -> Iterator[Finding]:
    """What is no terminal program logs."""
    if not path.startswith((*PRINTS, "tests/")):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield node.lineno, "prints"


def nothing_is_swallowed(_: str, tree: ast.Module) -> Iterator[Finding]:
    """No handler catches everything and says nothing."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield node.lineno, "bare except"
        silent = all(isinstance(step, ast.Pass | ast.Continue) for step in node.body)
        if silent and isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"):
            yield node.lineno, f"swallows every {node.type.id}"


def each_test_says_what_it_shows(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Each test has a docstring that states the behaviour."""
    for node in ast.walk(tree) if path.startswith("tests/") else ():
        is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if is_test and not ast.get_docstring(node):
            yield node.lineno, f"{node.name} has no docstring"


def faults_stand_in_the_engine(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Fault points do nothing unless a test installed a hook, and only the engine has them."""
    if not path.startswith(("app/engine/", "tests/")):
        yield from ((line, name) for line, name in imports(tree) if below(name, "app.engine.faults"))


RULES: dict[Rule, tuple[str, str]] = {
    # each with a file and a source that breaks it, so that no rule is blind
    imports_point_one_way: ("sinks/a.py", "from app.settings import Settings"),
    no_relative_imports: ("app/a.py", "from . import b"),
    faust_behind_one_file: ("app/engine/a.py", "import faust.app"),
    only_the_engine_finds_sinks: ("app/api/a.py", "from sinks import find"),
    sinks_keep_quiet: ("sinks/a.py", "async def send(self): await asyncio.sleep(1)"),
    routing_is_pure: ("app/routing/a.py", "from time import monotonic"),
    no_transport_is_named: ("app/engine/a.py", "key = 'global/webhook'"),
    no_layout_is_named: ("app/api/a.py", "layout = 'documented'"),
    only_the_door_prints: ("app/api/a.py", "print('x')"),
    nothing_is_swallowed: ("app/a.py", "try: x()\nexcept Exception: pass"),
    each_test_says_what_it_shows: ("tests/a.py", "async def test_x(): pass"),
    faults_stand_in_the_engine: ("app/api/a.py", "from app.engine.faults import fault"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Rule) -> None:
    """Every file of the project keeps the rule."""
    broken = [f"{path}:{line}: {what}" for path, tree in modules().items() for line, what in rule(path, tree)]
    assert not broken, f"{rule.__doc__}\n" + "\n".join(broken)


@pytest.mark.parametrize(("rule", "example"), RULES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_rule_sees(rule: Rule, example: tuple[str, str]) -> None:
    """A file that breaks the rule is found."""
    path, source = example

    assert list(rule(path, ast.parse(source)))


@pytest.mark.parametrize(
    ("exceptions", "finder"), [(NAMES_A_TRANSPORT, transport_names), (NAMES_A_LAYOUT, layout_names)]
)
def test_exceptions_are_needed(exceptions: dict[str, str], finder: Callable[[ast.Module], Iterator[Finding]]) -> None:
    """An exception that no file needs any more is taken off the list."""
    idle = [
        start
        for start in exceptions
        if not any(list(finder(tree)) for path, tree in modules().items() if path.startswith(start))
    ]

    assert not idle


def test_files_are_short() -> None:
    """No Python file has more than 400 lines."""
    long = {
        path: lines
        for path in modules()
        if (lines := len((ROOT / path).read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }

    assert long.keys() == LONG_FILES.keys(), long


def test_rooms_are_described() -> None:
    """Each package says in a README what lives there, and is a package to Python too."""
    rooms = {(ROOT / path).parent for path in modules() if not path.startswith("tests/")}

    assert not [f"{room.relative_to(ROOT)}/README.md" for room in sorted(rooms) if not (room / "README.md").is_file()]
    assert not [
        f"{room.relative_to(ROOT)}/__init__.py" for room in sorted(rooms) if not (room / "__init__.py").is_file()
    ]


def test_no_file_is_dead() -> None:
    """Each module is imported by another one, run by name, or found by name as a transport."""
    used = {name for tree in modules().values() for _, name in imports(tree)}
    started = {"app.cli"}
    dead = []
    for path in modules():
        name = path.removesuffix(".py").replace("/", ".")
        if path.startswith("tests/") or path.endswith("__init__.py") or name in started:
            continue
        found_by_name = path.split("/")[0] in ("sinks", "schemas") and is_transport(name)
        if not found_by_name and not any(below(use, name) for use in used):
            dead.append(path)

    assert not dead


def texts_of_the_project() -> Iterator[tuple[str, str]]:
    """Path and content of every text file that is ours."""
    for path in sorted(ROOT.rglob("*")):
        if NOT_OURS & set(path.relative_to(ROOT).parts) or not path.is_file() or path.name.startswith(".coverage"):
            continue
        try:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


# In two halves, so that this file has none of them itself.
NEEDLES = {
    "unfinished business": [r"\bTO" + "DO\\b", r"\bFIX" + "ME\\b", r"\bX" + "XX\\b"],
    "a path of one machine": [
        rf"(?<![\w.~])/{place}/\w" for place in ("ro" + "ot", "ho" + "me", "Us" + "ers", "wo" + "rk")
    ],
    "a registry's host": [
        *("py" + r"pi\.org", "pythonhost" + r"ed\.org", "np" + r"mjs\.org", "yarn" + r"pkg\.com"),
        *("mav" + r"en\.org", r"maven\.apa" + r"che\.org", "crat" + r"es\.io", r"proxy\.gol" + r"ang\.org"),
    ],
}


@pytest.mark.parametrize("what", NEEDLES)
def test_no_file_contains(what: str) -> None:
    """Nothing unfinished, nothing of one machine, and no registry's name stands in any file."""
    pattern = re.compile("|".join(NEEDLES[what]))
    found = [
        f"{path}:{content.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path, content in texts_of_the_project()
        for match in pattern.finditer(content)
    ]

    assert not found, f"{what}: {found}"


def test_silenced_checks_say_why() -> None:
    """Each `noqa` stands with its rules and a reason."""
    silenced = re.compile(r"# (?:ruff: )?noqa(?!: [A-Z]+\d+(?:, ?[A-Z]+\d+)*  \S)")
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in modules()
        if path != "tests/unit/test_house.py"
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if silenced.search(line)
    ]

    assert not found, "\n".join(found)
