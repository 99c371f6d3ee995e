"""LangGraph's and AutoGen's own tests, through the adapters: the two suites that fit in CI. The others run by hand:
``python -m tests.upstream langchain crewai``.

They are fetched with pip. Where the index cannot be reached these tests fail and say so: nothing is known then.
Without a network: ``pytest -m "not upstream"``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tests.upstream.__main__ import judge, show
from tests.upstream.suites import AUTOGEN_AGENTCHAT, AUTOGEN_CORE, LANGGRAPH_PREBUILT, Suite
from tests.upstream.workshop import Unavailable, Workshop


@pytest.mark.upstream
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("suite", [LANGGRAPH_PREBUILT, AUTOGEN_CORE, AUTOGEN_AGENTCHAT], ids=lambda one: one.package)
def test_the_frameworks_own_tests_end_as_they_do_without_the_adapter(suite: Suite, tmp_path: Path) -> None:
    """The same tests fail (mostly none), no call goes round the seam, and the ledger has every one that is known."""
    try:
        verdict = judge(suite, Workshop(tmp_path))
    except Unavailable as error:
        pytest.fail(f'{error}\nThe suite could not be had. Without a network: pytest -m "not upstream"', pytrace=False)
    show(Console(width=160), [verdict])
    assert verdict.faults == []
