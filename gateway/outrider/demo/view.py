"""What a person sees: acts, one line for each thing that happens, a line of state at the foot while things move.

On a terminal the foot is live and there is colour; elsewhere the same text comes as plain lines.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from outrider.demo.narrator import Line

WIDTH = 100
"""No line is wider, however wide the terminal; where there is none, this is its width."""
AGENT_WIDTH = 11
TOOL_WIDTH = 17
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

    def breaker(self, key: str, state: str) -> None:
        """A breaker changed its state."""
        self.line(Line("", key, "stop" if state == "open" else "aside", BREAKER_TEXTS.get(state, state)))

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
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
