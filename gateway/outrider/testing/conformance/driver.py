"""What the author of an adapter writes for the suite: how an agent of the framework is built, run and understood.

A driver is made twice, each time without arguments: in the test's process, which only reads what it declares, and in
the agent's process, where it works. So nothing of the framework may be imported where the class is defined; import it
in the methods.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool that the agent gets.

    ``function`` takes one text, ``function(text: str = "")``, and has a name and a docstring; it is a coroutine
    function where ``is_async``. ``governed_as`` is empty, or the name that the tool must be governed under instead of
    ``local.<name>``: ``group.operation`` of an upstream, so that the function never runs."""

    name: str
    function: Callable[..., Any]
    is_async: bool = False
    governed_as: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """One call that the scripted model asks for."""

    tool: str
    args: Mapping[str, Any]


Turns = Sequence[Sequence[Ask]]
"""What the scripted model says, turn by turn. The calls of one turn are asked for at once; after the last turn it says
that it is done."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the agent was told of one call: the text that the model reads, and whether it is marked as a failure."""

    kind: Literal["result", "failure"]
    text: str


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of an agent. ``told``: in the order of the script. ``killed``: why a kill switch ended the run, empty
    when it went on to its own end; what was told before a kill may be left out."""

    told: Sequence[Told] = ()
    killed: str = ""


class Driver(abc.ABC):
    """One adapter, as the suite sees it.

    ``framework`` is what the ledger must call it. ``not_offered`` maps what the framework cannot have to the reason,
    in a sentence: a scenario ("parallel calls"), a mode ("async"), or a scenario in one mode ("fork[async]"). It is
    reported with every run of the suite. ``start_within_s``: how long its process may take to import the framework.
    """

    framework: str = ""
    not_offered: Mapping[str, str] = {}
    start_within_s: float = 90.0

    @abc.abstractmethod
    def install(self) -> None:
        """Import the framework and install the adapter, once for the process. OUTRIDER_URL, OUTRIDER_TOKEN and
        OUTRIDER_AGENT are set."""

    @abc.abstractmethod
    def run(self, tools: Sequence[Tool], turns: Turns) -> Ran:
        """Build an agent with these tools, have it run the script, and tell what it saw. Called on any thread, also
        inside a tool of another agent. The tools' functions are plain ones.

        Nothing may be raised but what is a fault: a kill is ``Ran.killed``, a final error is a ``Told``."""

    async def arun(self, tools: Sequence[Tool], turns: Turns) -> Ran:
        """The same on an event loop; the tools' functions are coroutine functions (mode ``async``) or plain ones (mode
        ``mixed``). Cancelling the task that runs this must cancel the agent."""
        raise NotImplementedError("declare 'async' and 'mixed' in not_offered, or write arun()")
