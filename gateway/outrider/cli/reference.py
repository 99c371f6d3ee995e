"""The reference of all commands as Markdown, from the commands themselves: ``python -m outrider.cli.reference``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import typer

from outrider.cli import place, probe, run
from outrider.cli.app import app

INTRODUCTION = """# The command line

Made from the commands themselves by `python -m outrider.cli.reference > docs/cli.md`; a test compares.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 done here and not known to be done on every sidecar
([fleet.md](fleet.md)). Errors are one or two lines on stderr: what, where, how to mend it. Lists are tables for people,
in colour on a terminal; `--json` prints one JSON document for programs. Text that comes from agents is shown with
control characters written out.

## How a sidecar is found

```
{place}
```
"""


def render() -> str:
    """The whole page."""
    where = (place.__doc__ or "").split("\n\n")[1]
    parts = [INTRODUCTION.format(place="\n".join(line[4:] for line in where.splitlines()))]
    parts += [_command(path, command) for path, command in _commands("outrider", typer.main.get_command(app))]
    return "\n".join(parts)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        if hasattr(child, "commands"):
            yield from _commands(f"{path} {name}", child)
        else:
            yield f"{path} {name}", child


def _command(path: str, command: Any) -> str:
    light = {"outrider probe": probe.parser, "outrider run": run.parser}.get(path)
    if light is not None:
        return _light(path, light())
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option"]
    usage = " ".join([path, *(_usage(argument) for argument in arguments), "[OPTION …]" if options else ""]).strip()
    rows = [(_usage(argument), argument.help or "", _default(argument)) for argument in arguments]
    rows += [(_spelling(option), _told(option), _default(option)) for option in options if option.name != "help"]
    return _section(path, usage, (command.help or "").strip(), rows)


def _light(path: str, words: argparse.ArgumentParser) -> str:
    usage = " ".join(words.format_usage().removeprefix("usage: ").split())
    rows = [
        (" ".join([*action.option_strings, *_metavar(action)]), action.help or "", "")
        for action in words._actions
        if action.dest != "help"
    ]
    return _section(path, usage, words.description or "", rows)


def _metavar(action: argparse.Action) -> list[str]:
    return [str(action.metavar or action.dest.upper())] if action.nargs != 0 else []


def _usage(argument: Any) -> str:
    name = (argument.metavar or argument.name.upper()).strip("[]{}").upper()
    return name if argument.required else f"[{name}]"


def _spelling(option: Any) -> str:
    flag = getattr(option, "is_flag", False)
    return ", ".join(sorted(option.opts, key=len)) + ("" if flag else f" {option.metavar or option.name.upper()}")


def _told(option: Any) -> str:
    return (option.help or "") + (f" Environment: `{option.envvar}`." if option.envvar else "")


def _default(param: Any) -> str:
    if param.required or param.default in (None, "", False):
        return ""
    return f"`{param.default}`"


def _section(path: str, usage: str, text: str, rows: list[tuple[str, str, str]]) -> str:
    lines = [f"## {path}", "", " ".join(text.split()), "", "```", usage, "```", ""]
    if rows:
        lines += ["| | | default |", "|---|---|---|"]
        lines += [f"| `{name.replace('|', ' or ')}` | {told} | {default} |" for name, told, default in rows]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(render(), end="")
