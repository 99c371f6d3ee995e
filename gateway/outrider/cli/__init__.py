"""The command line: ``outrider COMMAND``. One file a command group; ``app.py`` lists them.

Nothing heavy is imported before a command needs it, and ``probe`` and ``run`` need nothing but the standard library:
the first starts often, the second starts where only the base install is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from outrider.cli.fault import CliError

LIGHT = ("probe", "run")
USAGE = 2


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 for success, 1 for refused or failed, 2 for wrong usage, 3 for done here and
    not known to be done on every sidecar."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return _light(words[0], words[1:]) if words[:1] and words[0] in LIGHT else _full(words)
    except CliError as fault:
        print(fault.told(), file=sys.stderr)
        return fault.exit_code
    except BrokenPipeError:  # the reader of a pipe had enough
        sys.stdout = None
        return 0
    except KeyboardInterrupt:
        return 130


def _light(command: str, words: list[str]) -> int:
    if command == "probe":
        from outrider.cli import probe

        return probe.main(words)
    from outrider.cli import run

    return run.main(words)


def _full(words: list[str]) -> int:
    try:
        import typer
    except ImportError:
        raise CliError(
            "this command needs the sidecar's packages, and only the base install of outrider is here.",
            "pip install 'outrider[gateway]'",
            USAGE,
        ) from None
    del typer
    from outrider.cli.app import run_app

    return run_app(words)
