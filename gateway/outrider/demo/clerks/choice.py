"""Which frameworks take part: what was asked for, else what is installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.cli.fault import CliError
from outrider.errors import Misconfigured
from outrider_adapters import versions

TITLES = {"langgraph": "LangGraph", "crewai": "CrewAI", "autogen": "AutoGen"}
SUPPORTED: Mapping[str, Mapping[str, versions.Range]] = {
    "langgraph": versions.LANGGRAPH,
    "crewai": versions.CREWAI,
    "autogen": {
        **versions.AUTOGEN,
        "autogen-ext": versions.AUTOGEN["autogen-core"],
    },  # it has the scripted model's base
}
ALL = "all"


@dataclass(frozen=True, slots=True)
class Choice:
    """``playing``: in the order of ``TITLES``, LangGraph always among them. ``left_out``: what nobody asked for and
    cannot be had, each with the reason."""

    playing: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def together(self) -> bool:
        """There is something to compare: the clerks' act is played."""
        return len(self.playing) > 1

    @property
    def hint(self) -> str:
        """One line about what is left out, and how to have it; empty where nothing is."""
        if not self.left_out:
            return ""
        names = " and ".join(f"{TITLES[name]} ({reason})" for name, reason in self.left_out)
        extras = ",".join(name for name, _ in self.left_out)
        return f"Not shown: {names}. To see one policy over all three: {install(extras)}"


def install(extras: str) -> str:
    """The command that brings them."""
    return f'pip install "outrider[{extras}]"'


def choose(asked: str) -> Choice:
    """Empty: all that are installed. Raises CliError for an unknown name, and for one that cannot be had."""
    wanted = _wanted(asked)
    reasons = {name: reason for name in wanted if (reason := _reason(name))}
    if asked or "langgraph" in reasons:
        _refuse(reasons)
    playing = tuple(name for name in wanted if name not in reasons)
    return Choice(playing, tuple(reasons.items()))


def _wanted(asked: str) -> list[str]:
    names = {word.strip().lower() for word in (asked or ALL).split(",")}
    unknown = sorted(names - {*TITLES, ALL})
    if unknown:
        what = f"--frameworks: there is no framework '{unknown[0]}'."
        raise CliError(what, f"name some of {', '.join(TITLES)}, with commas, or {ALL}", 2)
    return [name for name in TITLES if name in {*names, "langgraph"} or ALL in names]


def _refuse(reasons: Mapping[str, str]) -> None:
    if reasons:
        what = " and ".join(f"{TITLES[name]} ({reason})" for name, reason in reasons.items())
        extras = ",".join(reasons)
        clone = f"or from a clone: pip install -e '.[{extras}]'"
        raise CliError(f"the demonstration cannot show {what}.", f"{install(extras)}, {clone}")


def _reason(name: str) -> str:
    """Why a framework cannot take part; empty when it can."""
    try:
        versions.check(name, SUPPORTED[name])
    except Misconfigured as wrong:
        told = (f"{one.path} {one.message}" for one in wrong.faults if "not supported" in one.message)
        return next(told, "not installed")
    return ""
