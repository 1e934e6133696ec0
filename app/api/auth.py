"""Who may do what: the global key opens everything, an instance's token its own instance (contract, section 2)."""

import hmac
from collections.abc import Mapping

from app.api import errors

BEARER = "bearer "


def given_key(headers: Mapping[str, str]) -> str:
    """The key of a request: the header `apikey`, else a bearer token, else nothing. Never the query: it is logged."""
    key = headers.get("apikey", "")
    if key:
        return key
    authorization = headers.get("Authorization", "")
    return authorization[len(BEARER) :].strip() if authorization[: len(BEARER)].lower() == BEARER else ""


class Keys:
    """Compares keys without telling by the time it takes how much of one is right."""

    def __init__(self, global_key: str) -> None:
        self._global = _bytes(global_key)

    def is_global(self, given: str) -> bool:
        """Whether this is the global key."""
        return hmac.compare_digest(_bytes(given), self._global)

    def opens(self, given: str, token: str | None) -> bool:
        """Whether this is the global key or that token; what has no token is opened by the global key only."""
        is_global = self.is_global(given)
        is_token = hmac.compare_digest(_bytes(given), _bytes(token or ""))
        return is_global or (is_token and bool(token))

    def require_global(self, given: str) -> None:
        """Raises 401 for anything else."""
        if not self.is_global(given):
            raise errors.unauthorized()

    def require(self, given: str, token: str | None) -> None:
        """Raises 401 unless the key opens what the token belongs to."""
        if not self.opens(given, token):
            raise errors.unauthorized()


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
