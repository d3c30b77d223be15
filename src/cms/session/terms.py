"""What a follow-up may change of a session."""

from __future__ import annotations

from cms.session.model import Limits, Preset, Record


class Terms(Record, frozen=True, kw_only=True):
    """What is to be different from a follow-up on. What is None (or a limit that is) stays as it was; what
    permits and what checks is added to what was there."""

    limits: Limits | None = None
    preset: Preset | None = None
    allowed_tools: tuple[str, ...] | None = None
    verify: tuple[str, ...] | None = None
    repair: int | None = None
    json_schema: str | None = None

    @property
    def empty(self) -> bool:
        """Whether all stays as it was."""
        return all(getattr(self, field) is None for field in Terms.__struct_fields__)
