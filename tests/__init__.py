"""Tests, laid out as the package is.

Property tests try the same examples in every run, so that a failure means a change and not luck;
none has a deadline, as the machines that run them are shared.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile(
    "bzzz", deadline=None, derandomize=True, max_examples=100, database=None, print_blob=False
)
settings.load_profile("bzzz")
