"""What every destination's options share, and how an option is declared: once, with its words."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


def option(default: Any = ..., *, description: str, example: Any = None, secret: bool = False, **limits: Any) -> Any:
    """
    Declares an option: default, limits (`ge`, `le`, `max_length`, ...), description, example and secrecy.

    Validation, the editor's schema, the docs table and masking derive from this one place. `example` may be left out
    where the default is the best example.
    """
    extra: dict[str, Any] = {"secret": True} if secret else {}
    examples = [example] if example is not None else None
    return Field(default, description=description, examples=examples, json_schema_extra=extra or None, **limits)


class Retry(BaseModel):
    """When a delivery that failed is tried again. The first two retries come after 50 and 200 ms (contract 0, 5)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_attempts: int = option(10, description="Attempts in all, the first included.", ge=1, le=1000)
    initial_delay_secs: float = option(5.0, description="Wait before the fourth attempt.", ge=0, le=86400)
    max_delay_secs: float = option(300.0, description="The longest wait between attempts.", ge=0, le=86400)
    exponential: bool = option(True, description="Whether the wait doubles with each attempt.")
    jitter_factor: float = option(0.2, description="Share of the wait that is random, both ways.", ge=0, le=1)


class Options(BaseModel):
    """What a destination of any transport can be told. A transport's own options follow in its own file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transport: ClassVar[str] = ""

    timeout_secs: float = option(30.0, description="Longest wait for the far end's receipt.", ge=0.05, le=600)
    expire_secs: float | None = option(
        None,
        description="Events older than this are not delivered any more but counted as expired.",
        example=86400,
        gt=0,
    )
    max_in_flight: int = option(512, description="Most events under way to the far end at once.", ge=1, le=4096)
    disable_after_secs: float = option(
        86400.0,
        description="Without one receipt for this long while events wait, the destination is paused; 0 for never.",
        ge=0,
    )
    pause_after_rejections: int = option(
        50,
        description="This many events rejected in a row, with none accepted, pause the destination; 0 for never.",
        ge=0,
        le=1_000_000,
    )

    @property
    def far_end(self) -> str:
        """Destinations with the same text share one sink and its connections, in one process."""
        return ""

    def refusal(self) -> str | None:
        """Why nothing can be sent with these options (an address that no sink can use), or None."""
        return None
