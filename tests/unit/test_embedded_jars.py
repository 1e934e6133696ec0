"""The jars of the embedded Kafka: fetched once, checked, refused by name."""

import hashlib
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from app.embedded import jars
from app.embedded.errors import EmbeddedKafkaError
from app.embedded.jars import Jar
from app.embedded.progress import Lines, Silent


def body(name: str) -> bytes:
    """What a good jar of that name holds."""
    return f"the bytes of {name}".encode() * 50


LIST = tuple(
    Jar("org.example", name, "1.0", hashlib.sha256(body(name)).hexdigest()) for name in ("one", "two", "three")
)


class Repository:
    """Stands for the far end that serves jars: counts what is fetched, and spoils what it is told to."""

    def __init__(self, spoiled: Counter[str] | None = None) -> None:
        self.fetched: Counter[str] = Counter()
        self.spoiled = spoiled or Counter()

    def __call__(self, jar: Jar, place: Path) -> Path:
        self.fetched[jar.artifact] += 1
        place.mkdir(parents=True)
        path = place / jar.filename
        spoil = self.fetched[jar.artifact] <= self.spoiled[jar.artifact]
        path.write_bytes(b"torn" if spoil else body(jar.artifact))
        return path


def refuse(jar: Jar, _: Path) -> Path:
    """A far end that is not there."""
    raise ConnectionError(f"no route to the host of {jar.artifact}")


def test_the_pinned_list_names_all_jars_once() -> None:
    """The list holds the 46 jars of Kafka 4.1.1, each with a SHA-256, no file name twice."""
    listed = jars.pinned()
    assert len(listed) == len({jar.filename for jar in listed}) == 46
    assert all(len(jar.sha256) == 64 for jar in listed)
    assert "org.apache.kafka:kafka_2.13:4.1.1" in {jar.coordinates for jar in listed}


def test_jars_are_fetched_once(tmp_path: Path) -> None:
    """What is in the cache is not fetched again, whichever data directory asks."""
    repository = Repository()
    first = jars.class_path(tmp_path, Silent(), jars=LIST, download=repository)
    again = jars.class_path(tmp_path, Silent(), jars=LIST, download=refuse)
    assert first == again
    assert [Path(path).read_bytes() for path in first.split(":")] == [body(jar.artifact) for jar in LIST]
    assert repository.fetched == Counter(one=1, two=1, three=1)


def test_two_that_start_at_once_fetch_once(tmp_path: Path) -> None:
    """Several starts on an empty cache fetch each jar once, and all come up."""
    repository = Repository()

    def slowly(jar: Jar, place: Path) -> Path:
        time.sleep(0.05)
        return repository(jar, place)

    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(jars.class_path(tmp_path, Silent(), jars=LIST, download=slowly)),
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert repository.fetched == Counter(one=1, two=1, three=1)


@pytest.mark.parametrize("damage", ["changed", "removed", "cut"])
def test_a_jar_that_was_damaged_is_fetched_again(tmp_path: Path, damage: str) -> None:
    """A jar that was changed, cut or removed since it was checked is fetched again, the others are not."""
    jars.class_path(tmp_path, Silent(), jars=LIST, download=Repository())
    path = jars.directory(tmp_path, LIST) / "two-1.0.jar"
    if damage == "changed":
        path.write_bytes(body("two").replace(b"bytes", b"bites"))
    elif damage == "cut":
        path.write_bytes(body("two")[:10])
    else:
        path.unlink()
    repository = Repository()
    jars.class_path(tmp_path, Silent(), jars=LIST, download=repository)
    assert path.read_bytes() == body("two")
    assert repository.fetched == Counter(two=1)


def test_a_jar_that_arrives_torn_is_fetched_once_more(tmp_path: Path) -> None:
    """One torn transfer does not fail a start."""
    repository = Repository(spoiled=Counter(two=1))
    jars.class_path(tmp_path, Silent(), jars=LIST, download=repository)
    assert repository.fetched["two"] == 2


def test_a_jar_that_is_not_the_pinned_one_is_refused_by_name(tmp_path: Path) -> None:
    """A jar whose hash is wrong twice is never used, and the error names it and both hashes."""
    with pytest.raises(EmbeddedKafkaError) as caught:
        jars.class_path(tmp_path, Silent(), jars=LIST, download=Repository(spoiled=Counter(two=99)))
    assert "org.example:two:1.0" in str(caught.value)
    assert LIST[1].sha256 in str(caught.value)
    assert hashlib.sha256(b"torn").hexdigest() in str(caught.value)
    assert not (jars.directory(tmp_path, LIST) / "two-1.0.jar").exists()


def test_a_far_end_that_is_away_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Without a network the error names the jar, what came back, and the way round."""
    with pytest.raises(EmbeddedKafkaError, match=r"org\.example:\w+:1\.0.*no route.*SLUICE_BROKERS"):
        jars.class_path(tmp_path, Silent(), jars=LIST, download=refuse)


def test_a_cache_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    """A cache directory that is a file is named, with the setting that moves it."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(EmbeddedKafkaError, match="SLUICE_CACHE_DIR"):
        jars.class_path(tmp_path / "cache", Silent(), jars=LIST, download=Repository())


def test_a_warm_start_needs_no_fetching_code(tmp_path: Path) -> None:
    """With a full cache neither jgo nor an HTTP client is even imported."""
    jars.class_path(tmp_path, Silent(), jars=LIST, download=Repository())
    program = (
        "import sys, pathlib\n"
        "from app.embedded import jars, progress\n"
        f"listed = tuple(jars.Jar(*row) for row in {[(j.group, j.artifact, j.version, j.sha256) for j in LIST]!r})\n"
        f"jars.class_path(pathlib.Path({str(tmp_path)!r}), progress.Silent(), jars=listed)\n"
        "print(sorted({'jgo', 'requests'} & sys.modules.keys()))\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "[]\n", "")


def test_a_fetch_shows_its_progress_in_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal, the fetch says what it fetches, whereto, and when it is done."""
    jars.class_path(tmp_path, Lines(), jars=LIST, download=Repository())
    said = capsys.readouterr().err
    assert "Fetching 3 of the 3 jars" in said
    assert str(tmp_path) in said
    assert "3 of 3 files" in said
