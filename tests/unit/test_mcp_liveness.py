"""Whether a child still answers: asked where it has been silent, never in the middle of a call. Virtual time."""

from __future__ import annotations

import asyncio

import pytest

from outrider import clock
from outrider.mcp_wire import Message
from outrider.upstreams.mcp.liveness import ANSWER_S, FAILURES, HUNG_S, PERIOD_S, Liveness

pytestmark = pytest.mark.looptime(idle_timeout=5)


class Scene:
    """A child that answers or does not, and may be busy."""

    def __init__(self, *, answers: bool = True, busy: bool = False) -> None:
        self.answers, self.busy = answers, busy
        self.asked: list[float] = []
        self.questions: list[Message] = []
        self.hung_at: float | None = None
        self.liveness = Liveness(self._ask, lambda: self.busy, self._hung)

    async def _ask(self, question: Message) -> None:
        self.asked.append(clock.monotonic())
        self.questions.append(question)
        await asyncio.sleep(0.1 if self.answers else 3600)
        self.liveness.heard()

    def _hung(self) -> None:
        self.hung_at = clock.monotonic()

    async def run(self, seconds: float, version: str = "2025-11-25") -> None:
        self.liveness.begin(version)
        await asyncio.sleep(seconds)
        await self.liveness.close()


async def test_a_silent_child_is_asked_and_an_answer_is_enough() -> None:
    """At most every period, for ever."""
    scene = Scene()
    await scene.run(20 * PERIOD_S)
    assert 9 <= len(scene.asked) <= 20 and scene.hung_at is None


async def test_one_that_talks_is_not_asked() -> None:
    """What it says by itself is a sign of life."""
    scene = Scene(answers=False)

    async def talk() -> None:
        while True:
            scene.liveness.heard()
            await asyncio.sleep(1)

    talking = asyncio.ensure_future(talk())
    await scene.run(20 * PERIOD_S)
    talking.cancel()
    assert scene.asked == [] and scene.hung_at is None


async def test_three_questions_without_an_answer_are_enough() -> None:
    """Bounded: no longer than it says."""
    scene = Scene(answers=False)
    await scene.run(600)
    assert len(scene.asked) == FAILURES
    assert scene.hung_at is not None and scene.hung_at <= 2 * PERIOD_S + FAILURES * ANSWER_S + 1


async def test_a_long_call_is_never_disturbed() -> None:
    """A server that does one thing at a time could not answer beside it."""
    scene = Scene(answers=False, busy=True)
    await scene.run(3600)
    assert scene.asked == [] and scene.hung_at is None


async def test_a_call_that_was_given_up_makes_it_suspect_although_others_wait() -> None:
    """After a longer silence; else a busy agent would keep a dead server alive."""
    scene = Scene(answers=False, busy=True)
    scene.liveness.given_up()
    await scene.run(600)
    assert scene.asked and scene.asked[0] >= HUNG_S and scene.hung_at is not None


@pytest.mark.parametrize(("version", "method"), [("2025-06-18", "ping"), ("", "server/discover")])
async def test_the_question_is_one_that_the_era_has(version: str, method: str) -> None:
    """With an id of its own each time."""
    scene = Scene()
    await scene.run(5 * PERIOD_S, version)
    assert {question["method"] for question in scene.questions} == {method}
    assert len({question["id"] for question in scene.questions}) == len(scene.questions)
