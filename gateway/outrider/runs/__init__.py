"""Live runs: what each did, and when it is stopped.

``run`` is one run and its counts · ``verdicts`` decides purely · ``book`` is the table of them all · ``stored`` is what
outlives the process.
"""

from __future__ import annotations

from outrider.runs.book import Runs
from outrider.runs.run import Run

__all__ = ["Run", "Runs"]
