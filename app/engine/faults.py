"""Fault points: places where a test may make the engine fail. Without a test they do nothing."""

from collections.abc import Callable


class _Point:
    hook: Callable[[str], None] | None = None


def fault(name: str) -> None:
    """Names a place in the engine; calls the hook that a test installed, which may raise or end the process."""
    if _Point.hook is not None:
        _Point.hook(name)


def install(hook: Callable[[str], None] | None) -> None:
    """Installs a hook, or takes it away."""
    _Point.hook = hook
