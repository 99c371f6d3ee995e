"""Has pytest show what was seen instead, where a promise of the suite is broken. Imported before the scenarios are."""

import pytest

SCENARIOS = ("ending", "kills", "nesting", "outcomes", "sidecars", "suite", "timeouts", "values", "versions", "stage")

pytest.register_assert_rewrite(*(f"{__package__}.{name}" for name in SCENARIOS))
