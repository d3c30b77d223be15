"""Benchmarks: one seeded generator (`stream`) and one runner (`run`); `python -m benchmarks` runs all."""
