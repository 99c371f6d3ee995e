"""What a person sees: acts, one line for each thing that happens, a line of state at the foot while things move.

On a terminal the foot is live and there is colour; elsewhere the same text comes as plain lines.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from outrider.demo import summary
from outrider.demo.measure import Ending, How
from outrider.demo.narrator import Line
from outrider.demo.summary import Story
from outrider.demo.tasks import Task

WIDTH = 100
"""No line is wider, however wide the terminal; where there is none, this is its width."""
AGENT_WIDTH = 11
TOOL_WIDTH = 17
PROMPT_WIDTH = 28
MARKS = {"good": ("✓", "green"), "bad": ("✗", "red"), "stop": ("■", "bold magenta"), "aside": ("→", "cyan")}

BREAKER_TEXTS = {
    "open": "breaker OPENS: the service is spared, calls fail fast or fall back",
    "half_open": "breaker half open: the next call is a probe",
    "closed": "breaker CLOSES: the service is back",
}


class View:
    """Writes to standard output, or to standard error when standard output is for a program."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        stream = sys.stderr if to_stderr else sys.stdout
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal without these characters still shows the words
        self._console = Console(file=stream, highlight=False)
        if not self._console.is_terminal:
            self._console.width = int(os.environ.get("COLUMNS", WIDTH))
        self._console.width = min(WIDTH, self._console.width)
        self._foot = Live(Text(""), console=self._console, transient=True, refresh_per_second=10)
        self._acts = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._foot.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._foot.stop()

    def foot(self, text: str) -> None:
        """What stands below everything until the next word; nothing where there is no terminal."""
        if self._console.is_terminal:
            self._foot.update(Text(f"  {text}", style="dim", no_wrap=True, overflow="ellipsis"))

    def title(self, title: str, text: str) -> None:
        """The head of it all."""
        self._print(Text(title, style="bold"))
        self._print(Text(text, style="dim"))

    def act(self, title: str, text: str) -> None:
        """A new act, with what it is about."""
        self._acts += 1
        self._print(Text(""))
        self._print(Text(f"{self._acts}. {title}", style="bold"))
        self._print(Text(f"   {text}", style="dim"))

    def say(self, text: str, style: str = "") -> None:
        """A sentence between the lines."""
        self._print(Text(f"   {text}", style=style))

    def asked(self, agent: str, words: str) -> None:
        """A person asks an agent."""
        self._print(Text.assemble("   ", (f"{agent:<{AGENT_WIDTH}}", "bold"), (f"« {words} »", "italic")))

    def answered(self, agent: str, words: str, *, good: bool = True) -> None:
        """The agent's last word."""
        mark = "⇒"
        style = "green" if good else "yellow"
        self._print(Text.assemble("   ", (f"{agent:<{AGENT_WIDTH}}", "bold"), (f"{mark} {words}", style)))

    def line(self, line: Line) -> None:
        """One thing that happened."""
        mark, style = MARKS[line.mark]
        self._print(
            Text.assemble(
                "   ",
                " " * AGENT_WIDTH,
                (f"{line.tool:<{TOOL_WIDTH}} " if line.tool else "", "cyan"),
                (f"{mark} ", style),
                (line.text, style if line.mark == "stop" else ""),
            )
        )

    def ending(self, task: Task, ending: Ending, text: str) -> None:
        """How a task ended that was not followed."""
        style = "green" if ending.how is How.ANSWERED else "red"
        words = f"{task.prompt.partition(' (')[0]:<{PROMPT_WIDTH}}"[:PROMPT_WIDTH]
        self._print(
            Text.assemble(
                "   ", (f"{task.agent:<{AGENT_WIDTH}}", "bold"), words, " ", (f"{ending.how.value:<10}", style), text
            )
        )

    def command(self, text: str) -> None:
        """What a person types, or could."""
        self._print(Text.assemble("   ", ("$ ", "dim"), (text, "bold")))

    def receipt(self, receipt: Mapping[str, Any]) -> None:
        """What a kill did."""
        counts = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in receipt["counts"].items() if count)
        self.say(
            f"receipt     {receipt['scope']} stopped in {receipt['took_ms']:.0f} ms; under way: {counts or 'none'}"
        )
        for call in receipt["calls"]:
            self.say(f"            {call['tool']} of {call['agent']}: {call['result'].replace('_', ' ')}")

    def verdict(self, good: bool, text: str) -> None:
        """Something was checked."""
        mark, style = MARKS["good" if good else "bad"]
        self._print(Text.assemble("   ", (f"{mark} ", style), text))

    def breaker(self, key: str, state: str) -> None:
        """A breaker changed its state."""
        self.line(Line("", key, "stop" if state == "open" else "aside", BREAKER_TEXTS.get(state, state)))

    def failed(self, text: str) -> None:
        """It did not go as it should."""
        self._print(Text(""))
        self._print(Text(text, style="bold red"))

    def finale(self, story: Story) -> None:
        """The comparison, and whether everything happened as told."""
        self.act("What would have failed", "The same agents, tasks and faults, counted.")
        self._foot.stop()
        self._table(summary.rows(story))
        false = [claim for claim in story.claims if not claim.true]
        for claim in false:
            self.verdict(False, f"not so: {claim.text} (found: {claim.found})")
        if not false:
            text = f"{len(story.claims)} claims checked against the ledger and the tool server's own counts: all true."
            self.verdict(True, f"{text} {story.took_s:.0f} s.")

    def _table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """The comparison: what, without, with."""
        table = Table(box=SIMPLE, show_edge=False, pad_edge=True)
        table.add_column("")
        table.add_column("without Outrider", justify="right", style="red")
        table.add_column("with Outrider", justify="right", style="green")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def _print(self, text: Text) -> None:
        text.overflow = "fold"
        self._console.print(text, soft_wrap=False)
