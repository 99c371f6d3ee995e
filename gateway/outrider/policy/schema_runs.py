"""The section ``runs``: what one run may do altogether, and when it counts as running away."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from outrider.policy.fields import Count, Model, Pattern, PositiveDuration, ToolPattern, default, optional
from outrider.policy.run_guards import RunGuards

_GUARDS = RunGuards()


class Runaway(Model):
    """When a run counts as running away, and what follows."""

    same_call: Annotated[int, Field(ge=2, le=10_000)] = optional(
        "How often in a row a run may make the same call (tool and arguments); the next one is refused."
    )
    failures: Annotated[int, Field(ge=1, le=10_000)] = optional(
        "How many calls in a row may fail; the next one is refused, and counting begins anew."
    )
    exempt: list[ToolPattern] = default(
        [], "Tools whose repetition is meant, such as one that asks for a status: not counted as the same call.",
        max_length=256,
    )  # fmt: skip
    action: Literal["refuse", "pause"] = default(
        _GUARDS.action, "refuse: only that call. pause: where it goes on, the whole run, until a person resumes it."
    )
    refusals: int = default(
        _GUARDS.refusals, "How many such refusals, with no success in between, pause the run.", ge=1, le=100
    )


class RunKeys(Model):
    """What both `runs` and its overrides may say."""

    max_calls: Count = optional(
        "How many calls a run may make, those that a rule refuses included. Left out: any number."
    )
    max_retries: Annotated[int, Field(ge=0, le=1_000_000)] = optional(
        "How many retries all calls of a run may have together. Left out: as many as each tool may."
    )
    max_duration: PositiveDuration = optional(
        "How long after its first call a run may begin calls; a call under way then ends, too. Left out: for ever."
    )
    runaway: Runaway = optional("When a run counts as running away, and what follows.")


class RunOverride(RunKeys):
    """Other limits for the runs of some agents."""

    agents: list[Pattern] = Field(
        description="Agents whose runs it speaks of (the agent that made a run's first call).",
        min_length=1,
        max_length=256,
    )


class Runs(RunKeys):
    """What one run, with all its nested agents, may do altogether."""

    overrides: list[RunOverride] = default(
        [], "Other limits for the runs of some agents, in layers as `tools` has them.", max_length=256
    )
