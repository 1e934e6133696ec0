"""Settings: read once, all problems at once, secrets unseen; and the `.env` that stands in for an environment."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import dotenv, settings
from app.settings import Settings, SettingsError

ROOT = Path(__file__).resolve().parents[2]


def test_defaults() -> None:
    """Nothing has to be set."""
    read = settings.read({})

    assert (read.server_port, read.topic_prefix, read.brokers, read.api_key) == (8080, "sluice.", (), None)
    assert read.data_dir.is_absolute()
    assert read.given == frozenset()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("SLUICE_BROKERS", "a:9092, b:9092,", "brokers", ("a:9092", "b:9092")),
        ("SLUICE_PARTITIONS", "48", "partitions", 48),
        ("SLUICE_EGRESS_ALLOW", "127.0.0.0/8,*.internal", "egress_allow", ("127.0.0.0/8", "*.internal")),
        ("SLUICE_DRAIN_SECS", "0.5", "drain_secs", 0.5),
        ("SLUICE_METRICS_PUBLIC", "true", "metrics_public", True),
        ("SLUICE_METRICS_PUBLIC", "TRUE", "metrics_public", False),
        ("SLUICE_LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("SERVER_PORT", "1", "server_port", 1),
        ("SERVER_PORT", "", "server_port", 8080),
        ("AUTHENTICATION_API_KEY", "long-enough", "api_key", "long-enough"),
    ],
)
def test_reads(name: str, text: str, field: str, value: object) -> None:
    """Each text becomes the value it means; an empty one counts as unset."""
    read = settings.read({name: text})

    assert getattr(read, field) == value
    assert read.given == (frozenset({name}) if text else frozenset())


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("SERVER_PORT", "0", "from 1 to 65535"),
        ("SERVER_PORT", "80a", "from 1 to 65535"),
        ("SLUICE_MAX_EVENT_BYTES", "12", "from 1024"),
        ("SLUICE_TOPIC_PREFIX", "a/b", "letters, digits"),
        ("SLUICE_DRAIN_SECS", "-1", "a number from 0"),
        ("SLUICE_DRAIN_SECS", "nan", "a number from 0"),
        ("SLUICE_LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("AUTHENTICATION_API_KEY", "short", "at least 8"),
    ],
)
def test_refuses(name: str, text: str, says: str) -> None:
    """What cannot be read is refused with the variable and what is wanted."""
    with pytest.raises(SettingsError, match=says) as refused:
        settings.read({name: text})

    assert name in str(refused.value)


@pytest.mark.parametrize("key", sorted(settings.PUBLIC_DEFAULT_KEYS))
def test_public_keys_are_refused(key: str) -> None:
    """Upstream's published keys are no keys (contract 11.1), and even they are not repeated."""
    with pytest.raises(SettingsError, match="published") as refused:
        settings.read({"AUTHENTICATION_API_KEY": key})

    assert key not in str(refused.value)


def test_all_problems_at_once() -> None:
    """Who has three wrong settings learns of three."""
    with pytest.raises(SettingsError) as refused:
        settings.read({"SERVER_PORT": "x", "SLUICE_SLOTS": "1", "SLUICE_PARTITIONS": "0"})

    assert len(str(refused.value).splitlines()) == 3


def test_secrets_are_not_shown() -> None:
    """Neither an error nor the settings' own text has a secret in it."""
    secret = "tiny"
    with pytest.raises(SettingsError) as refused:
        settings.read({"AUTHENTICATION_API_KEY": secret})

    assert secret not in str(refused.value)
    assert "a-real-key" not in repr(settings.read({"AUTHENTICATION_API_KEY": "a-real-key"}))


def test_unknown_variables_are_named_with_the_nearest() -> None:
    """A misspelt variable of ours is told with the right word; other programs' variables are none of our business."""
    warnings = settings.unknown({"SLUICE_BROKER": "a:1", "SLUICE_ZZZZZ": "1", "PATH": "/bin"})

    assert warnings == [
        "SLUICE_BROKER is not a setting; did you mean SLUICE_BROKERS?",
        "SLUICE_ZZZZZ is not a setting",
    ]


def test_each_variable_has_its_field() -> None:
    """The table and the value class name the same things, once."""
    names = [variable.name for variable in settings.all_variables()]
    fields = [variable.field for variable in settings.VARIABLES]

    assert len(names) == len(set(names))
    assert sorted([*fields, "transports", "given"]) == sorted(Settings.__dataclass_fields__)


@pytest.mark.parametrize("variable", settings.all_variables(), ids=lambda variable: variable.name)
def test_each_variable_is_described(variable: settings.Variable) -> None:
    """Each has a sentence, and reads its own example, or else its own default."""
    assert variable.description.endswith(".")
    if variable.example:
        variable.parse(variable.example)
    elif isinstance(variable.default, bool | int | float | str):
        assert variable.parse(settings.shown(variable)) == variable.default


def test_settings_page_is_current() -> None:
    """`app/SETTINGS.md` is what `sluice settings --markdown` prints."""
    page = (ROOT / "app" / "SETTINGS.md").read_text(encoding="utf-8")

    assert page == settings.markdown(), "run: sluice settings --markdown > app/SETTINGS.md"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=1", {"A": "1"}),
        ("export A=1\r\nB = two words \r\n", {"A": "1", "B": "two words"}),
        ("# note\n\n  \nA=x # note\nB=x#y\nC=#note\nD=", {"A": "x", "B": "x#y", "C": "", "D": ""}),
        ('A=\'a # b\' # note\nB="a\\nb \\" c"', {"A": "a # b", "B": 'a\nb " c'}),
        ("A=http://x/?a=b#c", {"A": "http://x/?a=b#c"}),
        ('A="-----BEGIN\nabc=\n-----END"\nB=1', {"A": "-----BEGIN\nabc=\n-----END", "B": "1"}),
        ("A=1\nA=2", {"A": "2"}),
        ("", {}),
    ],
)
def test_env_file_reads(text: str, values: dict[str, str]) -> None:
    """`.env` is read as upstream's users write it."""
    assert dotenv.parse(text, ".env") == values


@pytest.mark.parametrize("text", ["A=1\nno value\nB=2", "A=1\nB='open", 'A=1\n"B"=1', "A=1\nB='x' y"])
def test_env_file_names_the_line(text: str) -> None:
    """A line that is none is refused with its number."""
    with pytest.raises(SettingsError, match=r"^\.env:2: NAME=value is wanted"):
        dotenv.parse(text, ".env")


@given(st.text(max_size=200))
def test_env_file_reads_or_refuses(text: str) -> None:
    """Whatever stands in the file is read or refused, in a time that does not explode."""
    try:
        values = dotenv.parse(text, ".env")
    except SettingsError:
        return

    assert all(name.isidentifier() for name in values)


@given(st.text(alphabet=st.characters(blacklist_characters="'", blacklist_categories=["Cs"]), max_size=80))
def test_single_quotes_keep_everything(value: str) -> None:
    """What stands between single quotes is the value, whatever it is."""
    assert dotenv.parse(f"A='{value}'", ".env") == {"A": value}


def test_the_environment_wins(tmp_path: Path) -> None:
    """A variable that is set in the environment is not taken from `.env`."""
    (tmp_path / ".env").write_text("SERVER_PORT=1\nSLUICE_SLOTS=200\n")

    assert dotenv.missing_from({"SERVER_PORT": "2"}, tmp_path) == {"SLUICE_SLOTS": "200"}
    assert dotenv.missing_from({}, tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    ("content", "says"), [(b"A=\xff", "not UTF-8"), (b"#" * (dotenv.MAX_BYTES + 1), "larger than")]
)
def test_env_file_that_is_none(tmp_path: Path, content: bytes, says: str) -> None:
    """A file that holds no settings is refused in words."""
    (tmp_path / ".env").write_bytes(content)

    with pytest.raises(SettingsError, match=says):
        dotenv.missing_from({}, tmp_path)


def test_env_file_that_cannot_be_read(tmp_path: Path) -> None:
    """So is one that is a folder."""
    (tmp_path / ".env").mkdir()

    with pytest.raises(SettingsError, match=r"\.env: cannot be read"):
        dotenv.missing_from({}, tmp_path)
