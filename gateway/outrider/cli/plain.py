"""Text from agents and upstreams, made harmless for a terminal. Standard library only."""

from __future__ import annotations

import unicodedata

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Controls, direction marks and other invisible characters, halves of pairs, private ones, line separators: with them a
name could clear the screen, hide a row or pretend to be another name."""


def safe(text: str, *, keep_lines: bool = False) -> str:
    """The text with every such character written out, for example ``\\x1b``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(letter, keep_lines) for letter in text)


def _shown(letter: str, keep_lines: bool) -> str:
    if letter == "\n" and keep_lines:
        return letter
    if unicodedata.category(letter) not in HIDDEN:
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def short(text: str, limit: int = 60) -> str:
    """One safe line of at most ``limit`` characters."""
    clean = safe(text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
