"""The global API key: the one that was set, or one made once and kept beside the data."""

import os
import secrets
import tempfile
from pathlib import Path

from app.settings import PUBLIC_DEFAULT_KEYS, Settings, SettingsError

FILE_NAME = "api-key"


def load(settings: Settings) -> tuple[str, bool]:
    """
    The global key, and whether this call made it (then it is to be shown: nobody knows it yet).

    Several processes may call at once; all get the same key. Raises SettingsError for a key that upstream publishes,
    and for a file that cannot be read or holds none.
    """
    if settings.api_key:
        return _checked(settings.api_key, "AUTHENTICATION_API_KEY"), False
    file = settings.data_dir / FILE_NAME
    made = not file.exists() and _make(file)
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the API key in {file} cannot be read ({error}); "
            "set AUTHENTICATION_API_KEY, or remove the file for a new key"
        ) from error
    return _checked(key, str(file)), made


def _make(file: Path) -> bool:
    """Whether it was this call that made the file; it appears whole, readable for its owner only."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, new = tempfile.mkstemp(prefix=f".{FILE_NAME}-", dir=file.parent)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as output:
                output.write(secrets.token_hex(24) + "\n")
            os.link(new, file)
        finally:
            Path(new).unlink()
    except FileExistsError:
        return False
    except OSError as error:
        raise SettingsError(f"the API key cannot be kept in {file} ({error}); set AUTHENTICATION_API_KEY") from error
    return True


def _checked(key: str, where: str) -> str:
    if key in PUBLIC_DEFAULT_KEYS:
        raise SettingsError(f"{where}: this key is published in upstream's examples; choose one of your own")
    if len(key) < 8 or not key.isprintable() or not key.isascii():
        raise SettingsError(f"{where}: at least 8 printable ASCII characters are wanted")
    return key
