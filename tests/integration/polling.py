"""Waiting for what another process, or another task, does."""

import asyncio
from collections.abc import Callable

import pytest

WAIT_SECS = 20


async def until(condition: Callable[[], bool], what: str) -> None:
    """Returns when the condition holds; fails with `what` after WAIT_SECS."""
    try:
        async with asyncio.timeout(WAIT_SECS):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not within {WAIT_SECS} s: {what}")
