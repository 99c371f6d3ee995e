"""How the command line says that something went wrong: what, where, and how to mend it, in one or two lines."""

from __future__ import annotations

from outrider.cli.plain import safe


class CliError(Exception):
    """Ends the command. ``exit_code`` 1: refused or failed; 2: wrong usage."""

    def __init__(self, what: str, fix: str = "", exit_code: int = 1) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
        self.exit_code = exit_code

    def told(self) -> str:
        """For stderr. Line breaks of ours stay; control characters of anybody's do not."""
        lines = [f"outrider: {self.what}"] + ([f"Fix: {self.fix}"] if self.fix else [])
        return "\n".join(safe(line, keep_lines=True) for line in lines)
