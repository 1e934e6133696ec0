"""What the documents say is true: their commands exist, their examples load, their links lead somewhere."""

import argparse
import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from app import cli, settings
from app.config import pipelines

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".venv", ".git", "build", "results", "node_modules", ".pytest_cache", ".hypothesis"}
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.md") if not NOT_OURS & set(path.relative_to(ROOT).parts)
)
PREFIXES = ("SLUICE_", "SERVER_", "AUTHENTICATION_", "WEBHOOK_")


@cache
def content(document: str) -> str:
    """The text of a document."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> Iterator[str]:
    """The fenced blocks of a language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```", content(document), re.MULTILINE | re.DOTALL)


def commands(document: str) -> str:
    """Everything that stands as code: blocks of shell, and what is between backticks."""
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", content(document), flags=re.MULTILINE | re.DOTALL))
    return "\n".join([*blocks(document, "sh"), *inline])


def targets() -> set[str]:
    """What `make` can make."""
    return set(re.findall(r"^([a-z]+):.*##", content("Makefile"), re.MULTILINE))


def verbs() -> dict[str, argparse.ArgumentParser]:
    """The verbs of `sluice`."""
    (action,) = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(action.choices)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document: str) -> None:
    """Every `make` target, every verb of `sluice` and every option of it that a document names exists."""
    said = commands(document)
    known = verbs()

    assert set(re.findall(r"(?<![\w/.-])make ([a-z]+)", said)) <= targets()
    for verb, rest in re.findall(r"(?:^|[\s/`])sluice ([a-z]+)([^\n`#]*)", said):
        assert verb in known, f"sluice {verb}"
        options = set(re.findall(r"--[a-z-]+", rest))
        assert options <= set(known[verb]._option_string_actions), f"sluice {verb}{rest}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_settings_exist(document: str) -> None:
    """Every setting that a document names is one."""
    known = {variable.name for variable in settings.all_variables()}
    named = set(re.findall(rf"\b(?:{'|'.join(PREFIXES)})[A-Z_]+[A-Z]\b", content(document)))

    assert named <= known


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples_load(document: str) -> None:
    """Every YAML block is a valid pipelines.yaml, every JSON block parses."""
    for block in blocks(document, "yaml"):
        assert [str(problem) for problem in pipelines.parse(block.encode()).problems] == []
    for block in blocks(document, "json"):
        json.loads(block)
    for body in re.findall(r"-d '([^']*)'", "\n".join(blocks(document, "sh"))):
        json.loads(body)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Every relative link of a document names a file."""
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", content(document))

    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if document.endswith("README.md")])
def test_files_exist(document: str) -> None:
    """Every Python file that a README names by its path or name is there."""
    here = (ROOT / document).parent
    names = re.findall(r"`([\w/]+\.py)`", content(document))

    assert [
        name for name in names if not any((base / name).exists() for base in (here, here.parent, ROOT, ROOT / "app"))
    ] == []


def test_targets_are_described() -> None:
    """`make help` has a sentence for everything that can be made."""
    phony = re.search(r"^\.PHONY: (.*)$", content("Makefile"), re.MULTILINE)

    assert phony
    assert set(phony[1].split()) == targets()
    assert {"help", "install", "demo", "test", "lint", "bench", "clean"} <= targets()


def test_every_room_is_on_the_map() -> None:
    """`app/README.md` names each room and each file that stands beside them."""
    beside = {path.name for path in (ROOT / "app").glob("*.py")} - {"__init__.py"}
    rooms = {f"{path.parent.name}/" for path in (ROOT / "app").glob("*/__init__.py")}

    assert [name for name in sorted(beside | rooms) if f"`{name}`" not in content("app/README.md")] == []


def test_the_changelog_knows_the_version() -> None:
    """What is not released stands at its top; a version that is, has its section."""
    version = tomllib.loads(content("pyproject.toml"))["project"]["version"]
    sections = re.findall(r"^## \[([^\]]+)\]", content("CHANGELOG.md"), re.MULTILINE)

    assert sections[0] == "Unreleased" or sections[0] == version


def test_every_dependency_is_pinned_with_hashes() -> None:
    """`constraints.txt` names each direct dependency, and each of its lines has a version and a hash."""
    project = tomllib.loads(content("pyproject.toml"))["project"]
    wanted = [
        *project["dependencies"],
        *(need for extra in project["optional-dependencies"].values() for need in extra),
    ]
    entries = re.split(r"\n(?=\S)", content("constraints.txt").replace("\\\n", " ").strip())
    pinned = {entry.split("==")[0].strip().lower() for entry in entries}

    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
    assert {re.split(r"[<>=;\[ ]", need)[0].lower() for need in wanted} <= pinned
