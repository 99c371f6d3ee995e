"""Where a starting policy is written to: ``suggest`` and ``import`` share it."""

from __future__ import annotations

from pathlib import Path

from outrider.cli.fault import CliError


def fresh(path: Path, force: bool) -> Path:
    """The file, where it may be written. Raises CliError."""
    if path.exists() and not force:
        raise CliError(f"{path} is there already.", "use --force to replace it, or name another folder.")
    return path


def write(path: Path, text: str) -> None:
    """Raises CliError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}.", "name another folder.") from None
