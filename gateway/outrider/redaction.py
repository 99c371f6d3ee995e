"""Which parts of a tool's arguments and results are kept out of the ledger: the grammar of ``redact`` in a policy.

    path    = root segment*
    root    = "$.args" | "$.result"
    segment = "." name | "[*]" | ".*" | "[" index "]" | "['" any text "']" | ".." name

A subset of JSONPath (RFC 9535): names, wildcards, indexes from the front, and descent to a name. Filters, slices and
negative indexes are refused, because a path that is misread keeps a secret in the record.

Imported by the policy (to find faults at load) and by the ledger (to apply it), so it stands on the lowest floor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

MAX_PATH_CHARS = 500
MAX_SEGMENTS = 32
"""As deep as arguments may be."""

_ROOT = re.compile(r"\$\.(args|result)(?![^.\[])")
_SEGMENT = re.compile(
    r"""\.\.(?P<descend>[^\W\d][\w-]*)
      | \.(?P<star>\*)
      | \.(?P<name>[^\W\d][\w-]*)
      | \[(?P<any>\*)\]
      | \[(?P<index>\d{1,6})\]
      | \['(?P<single>[^'\\]+)'\]
      | \["(?P<double>[^"\\]+)"\]""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One segment. ``kind`` name: the key ``name``; index: the element ``index``; any: every key and element;
    descend: the key ``name`` at any depth below."""

    kind: Literal["name", "index", "any", "descend"]
    name: str = ""
    index: int = -1


@dataclass(frozen=True, slots=True)
class RedactionPath:
    """A parsed path. No steps: the whole of ``root``."""

    root: Literal["args", "result"]
    steps: tuple[Step, ...]
    text: str


@lru_cache(maxsize=4096)
def parse_path(text: str) -> RedactionPath:
    """Parse ``$.args.iban``. Raises ValueError with a sentence that says what is wrong and what may be written."""
    if len(text) > MAX_PATH_CHARS:
        raise ValueError(f"a redaction path has at most {MAX_PATH_CHARS} characters")
    root = _ROOT.match(text)
    if root is None:
        raise ValueError(f"'{text}' does not start with $.args or $.result; write for example $.args.iban")
    steps: list[Step] = []
    at = root.end()
    while at < len(text):
        found = _SEGMENT.match(text, at)
        if found is None:
            raise ValueError(
                f"'{text}' is not understood from '{text[at:]}' on; segments are .name, .*, [*], [0], ['any name'] "
                "and ..name; filters, slices and negative indexes are not supported"
            )
        steps.append(_step(found))
        at = found.end()
    if len(steps) > MAX_SEGMENTS:
        raise ValueError(f"a redaction path has at most {MAX_SEGMENTS} segments")
    return RedactionPath("args" if root[1] == "args" else "result", tuple(steps), text)


def _step(found: re.Match[str]) -> Step:
    """The step of one matched segment."""
    if found["descend"] is not None:
        return Step("descend", found["descend"])
    if found["index"] is not None:
        return Step("index", index=int(found["index"]))
    if found["star"] is not None or found["any"] is not None:
        return Step("any")
    return Step("name", found["name"] or found["single"] or found["double"])
