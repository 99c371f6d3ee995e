"""What a person sees: acts, one line for each thing that happens, a line of state at the foot while things move.

On a terminal the foot is live and there is colour; elsewhere the same text comes as plain lines.
"""

from __future__ import annotations

import os
import re
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
from outrider.demo.clerks import compare
from outrider.demo.clerks.duties import COMPARED
from outrider.demo.measure import Ending, How
from outrider.demo.narrator import CallLine, Line
from outrider.demo.summary import Story
from outrider.demo.tasks import Task

WIDTH = 100
"""No line is wider, however wide the terminal; where there is none, this is its width."""
MARGIN = 3
WHO_WIDTH = 12
TOOL_WIDTH = 21
CLERK_WIDTH = 15
CLERK_TOOL_WIDTH = 18
MARKS_WIDTH = 5
PROMPT_WIDTH = 28
HOW_WIDTH = 10
MAX_WORDS = 150
MARKS = {"good": ("✓", "green"), "bad": ("✗", "red"), "stop": ("■", "bold magenta"), "aside": ("→", "cyan")}
BREAKER_TEXTS = {
    "open": "breaker OPENS: the service is spared, calls fall back",
    "half_open": "breaker half open: the next call is a probe",
    "closed": "breaker CLOSES: the service is back",
}
_ID = re.compile(r"\b([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")


class View:
    """Writes to standard output, or to standard error when standard output is for a program."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        stream = sys.stderr if to_stderr else sys.stdout
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal without these characters still shows the words
        self._console = Console(file=stream, highlight=False)
        if not self._console.is_terminal:
            self._console.width = int(os.environ.get("COLUMNS", "") or WIDTH)
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
            self._foot.update(Text(f"{' ' * MARGIN}{text}", style="dim", no_wrap=True, overflow="ellipsis"))

    # ── the frame ────────────────────────────────────────────────────────────────────────────────────────────────

    def title(self, title: str, text: str) -> None:
        """The head of it all."""
        self._console.print(Text(title, style="bold"))
        self._console.print(Text(text, style="dim"))

    def act(self, title: str, text: str) -> None:
        """A new act, with what it is about."""
        self._acts += 1
        self._console.print()
        self._console.print(Text(f"{self._acts}. {title}", style="bold"))
        self._row((Text(text, style="dim"), None))

    def failed(self, text: str) -> None:
        """It did not go as it should."""
        self._console.print()
        self._console.print(Text(text, style="bold red"))

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────

    def ending(self, task: Task, ending: Ending, text: str) -> None:
        """How a task ended that was not followed."""
        style = "green" if ending.how is How.ANSWERED else "red"
        prompt = Text(task.prompt, no_wrap=True, overflow="ellipsis")
        how = Text(ending.how.value, style)
        self._row((_who(task.agent), WHO_WIDTH), (prompt, PROMPT_WIDTH), (how, HOW_WIDTH), (Text(text), None))

    def asked(self, task: Task) -> None:
        """A person asks an agent; beside it, what will go wrong."""
        fault = f"  ({task.fault})" if task.fault else ""
        self._row((_who(task.agent), WHO_WIDTH), (Text.assemble(f"“{task.prompt}”", (fault, "dim")), None))

    def question(self, prompt: str, fault: str) -> None:
        """A person asks all agents; beside it, what will go wrong."""
        self._row((Text.assemble(f"“{prompt}”", (f"  ({fault})", "dim")), None))

    def line(self, line: Line | CallLine) -> None:
        """One thing that happened."""
        if isinstance(line, CallLine):
            self._call(line)
            return
        mark, style = MARKS[line.mark]
        words = Text(line.text, style if line.mark == "stop" else "")
        tool = ((Text(line.tool, "cyan"), TOOL_WIDTH),) if line.tool else ()
        self._row((Text(""), WHO_WIDTH), *tool, (Text(mark, style), 1), (words, None))

    def _call(self, line: CallLine) -> None:
        """A whole call, with a mark for each attempt."""
        marks = Text(" ").join(Text(*MARKS[mark]) for mark in line.marks)
        self._row(
            (_who(line.agent), CLERK_WIDTH),
            (Text(line.tool, "cyan"), CLERK_TOOL_WIDTH),
            (marks, MARKS_WIDTH),
            (Text(line.text), None),
        )

    def answered(self, agent: str, words: str, *, good: bool = True) -> None:
        """The agent's last word."""
        style = "green" if good else "yellow"
        self._row((_who(agent), WHO_WIDTH), (Text("⇒", style), 1), (Text(_short(words), style), None))

    def all_answered(self, words: str, *, good: bool = True) -> None:
        """The last word of several agents."""
        style = "green" if good else "yellow"
        self._row((Text("⇒", style), 1), (Text(words, style), None))

    def breaker(self, key: str, state: str) -> None:
        """A breaker changed its state."""
        self.line(Line("", key, "stop" if state == "open" else "aside", BREAKER_TEXTS.get(state, state)))

    def command(self, text: str) -> None:
        """What a person types, or could."""
        self._row((Text.assemble(("$ ", "dim"), (text, "bold")), None))

    def receipt(self, receipt: Mapping[str, Any]) -> None:
        """What a kill did. Calls of the same tool that fared alike share a line."""
        counts = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in receipt["counts"].items() if count)
        text = f"{receipt['scope']} stopped in {receipt['took_ms']:.0f} ms; under way: {counts or 'nothing'}"
        self._row((Text("receipt", "bold"), WHO_WIDTH), (Text(text), None))
        alike: dict[tuple[str, str], list[str]] = {}
        for call in receipt["calls"]:
            alike.setdefault((call["tool"], call["result"]), []).append(call["agent"])
        for (tool, result), agents in alike.items():
            note = " (begun, and a function that runs cannot be stopped)" if result == "unknown" else ""
            text = f"{tool} of {', '.join(agents)}: {result.replace('_', ' ')}{note}"
            self._row((Text(""), WHO_WIDTH), (Text(text), None))

    def verdict(self, good: bool, text: str) -> None:
        """Something was checked."""
        mark, style = MARKS["good" if good else "bad"]
        self._row((Text(mark, style), 1), (Text(text), None))

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def finale(self, story: Story) -> None:
        """The comparison, and whether everything happened as told."""
        self.act("What would have failed", "The same agents, the same tasks, the same faults; counted, not estimated.")
        self._foot.stop()
        self._table(summary.rows(story))
        if story.clerks is not None:
            self._frameworks(compare.rows(story.clerks))
        false = [claim for claim in story.claims if not claim.true]
        for claim in false:
            self.verdict(False, f"not so: {claim.text} (found: {claim.found})")
        if not false:
            text = f"{len(story.claims)} claims checked against the ledger and the tools' own counts: all true."
            self.verdict(True, f"{text} {story.took_s:.0f} s.")

    def hint(self, text: str) -> None:
        """What more there would be to see; may be nothing."""
        if text:
            self._row((Text(text, style="dim"), None))

    def _frameworks(self, rows: Sequence[Sequence[str]]) -> None:
        table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
        table.add_column("how often a function ran")
        for duty in COMPARED:
            table.add_column(duty.title, justify="right")
        for row in rows:
            table.add_row(*(_two_coloured(cell) for cell in row))
        self._row((table, None))
        text = "without Outrider → with it; ✓ answered, ✗ not; the model never tries again"
        self._row((Text(text, style="dim"), None))
        self._console.print()

    def _table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
        table.add_column("")
        table.add_column("without Outrider", justify="right", style="red")
        table.add_column("with Outrider", justify="right", style="green")
        for row in rows:
            table.add_row(*row)
        self._row((table, None))
        self._console.print()

    def _row(self, *cells: tuple[Text | Table, int | None]) -> None:
        """Columns beside each other, the last one wrapped inside itself. A cell is what it shows, and its width."""
        grid = Table.grid(padding=(0, 1, 0, 0), expand=False)
        grid.add_column(width=MARGIN - 1)
        for _, width in cells:
            grid.add_column(width=width, overflow="fold")
        grid.add_row("", *(shown for shown, _ in cells))
        if self._console.is_terminal:
            self._console.print(grid)
            return
        with self._console.capture() as padded:
            self._console.print(grid)
        self._console.file.write("".join(f"{line.rstrip()}\n" for line in padded.get().splitlines()))
        self._console.file.flush()


def _who(agent: str) -> Text:
    return Text(agent, style="bold")


def _two_coloured(cell: str) -> Text:
    """Without Outrider, and with it."""
    before, arrow, after = cell.partition(" → ")
    return Text.assemble((before, "red"), arrow, (after, "green")) if arrow else Text(cell)


def _short(words: str) -> str:
    """Ids cut to their first part, and the whole to about two lines."""
    clear = _ID.sub(r"\1…", words)
    return clear if len(clear) <= MAX_WORDS else clear[: MAX_WORDS - 1].rstrip() + "…"
