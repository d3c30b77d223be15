"""Property tests are the same on every run, write no database, and know no deadline."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("cms", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("cms")
