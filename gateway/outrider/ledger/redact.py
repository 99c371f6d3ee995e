"""What of a tool's arguments and results the ledger keeps: a salted digest of all of it, and the redacted value.

    salt    16 random bytes, kept beside the value and erased with it
    digest  SHA-256(salt ‖ JSON of the unredacted value, keys sorted): proves later what was sent, to whoever has it
    stored  SHA-256(salt ‖ the stored text), only where redaction or cutting made that another text

Without the salt neither can be guessed back, however few values are possible.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from outrider import clock
from outrider.redaction import RedactionPath, parse_path

REDACTED: Final = "«redacted»"
MAX_STORED_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 64
"""Deeper parts are replaced whole: what cannot be looked through is not kept."""

DEFAULT_KEYS: Final = frozenset(
    {
        "password", "passwd", "pwd", "passphrase", "passcode", "secret", "token", "apikey", "authorization", "cookie",
        "setcookie", "privatekey", "secretkey", "accesskey", "accesstoken", "refreshtoken", "idtoken", "sessiontoken",
        "authtoken", "bearertoken", "clientsecret", "signingkey", "encryptionkey", "credential", "credentials",
        "connectionstring", "cvv", "cvc",
    }
)  # fmt: skip
"""Names whose values are never stored, compared without case, hyphens, underscores, dots and spaces."""
DEFAULT_SUFFIXES: Final = (
    "password", "passwd", "passphrase", "secret", "token", "apikey", "authorization", "cookie", "privatekey",
    "secretkey", "accesskey",
)  # fmt: skip
"""And names that end with one of these: ``db_password``, ``X-Api-Key``, ``githubToken``."""

Root = Literal["args", "result"]
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_NOT_IN_NAMES = str.maketrans("", "", "-_. ")
_encoder = msgspec.json.Encoder(order="sorted", enc_hook=str)


@dataclass(frozen=True, slots=True)
class Captured:
    """``text`` is None when the policy does not record values. ``stored`` is empty when ``digest`` is of the text."""

    salt: bytes
    digest: str
    size: int
    text: str | None
    stored: str


class Redactor:
    """The names of one policy, remembered: asking again about the same name is a dictionary look-up."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        more = frozenset(key.lower().translate(_NOT_IN_NAMES) for key in keys)
        exact = DEFAULT_KEYS | more

        @lru_cache(maxsize=8192)
        def is_secret(key: str) -> bool:
            name = key.lower().translate(_NOT_IN_NAMES)
            return name in exact or name.endswith(DEFAULT_SUFFIXES)

        self._is_secret = is_secret

    def redact(self, root: Root, value: Any, paths: tuple[str, ...] = ()) -> Any:
        """``value`` with what must not be stored replaced; the same object when there is nothing to replace.
        ``root`` is ``args`` or ``result``, ``paths`` are redaction paths as written in a policy."""
        states = _states(root, paths) if paths else ()
        if any(path.steps == () for path in _paths(root, paths)):
            return REDACTED
        return self._walk(value, states, 0)

    def _walk(self, value: Any, states: States, depth: int) -> Any:
        if isinstance(value, dict):
            return self._walk_dict(value, states, depth)
        if isinstance(value, list | tuple):
            return self._walk_list(value, states, depth)
        return value if type(value) in _SCALARS else self._walk_foreign(value, states, depth)

    def _walk_foreign(self, value: Any, states: States, depth: int) -> Any:
        """An object that JSON would show with its fields (a dataclass): looked through as what it would become."""
        try:
            plain = msgspec.to_builtins(value, enc_hook=str, str_keys=True)
        except Exception:  # its __str__ may raise anything
            return REDACTED
        return plain if type(plain) in _SCALARS else self._walk(plain, states, depth + 1)

    def _walk_dict(self, value: dict[Any, Any], states: States, depth: int) -> Any:
        if depth >= MAX_DEPTH:
            return REDACTED
        changed: dict[Any, Any] | None = None
        is_secret = self._is_secret
        for key, item in value.items():
            if isinstance(key, str) and is_secret(key):
                new: Any = REDACTED
            elif states:
                new = self._follow(item, _advance(states, key), depth)
            elif type(item) in _SCALARS:
                continue
            else:
                new = self._walk(item, states, depth + 1)
            if new is not item:
                changed = dict(value) if changed is None else changed
                changed[key] = new
        return value if changed is None else changed

    def _walk_list(self, value: list[Any] | tuple[Any, ...], states: States, depth: int) -> Any:
        if depth >= MAX_DEPTH:
            return REDACTED
        changed: list[Any] | None = None
        for index, item in enumerate(value):
            new = self._follow(item, _advance(states, index) if states else (), depth)
            if new is not item:
                changed = list(value) if changed is None else changed
                changed[index] = new
        return value if changed is None else changed

    def _follow(self, item: Any, states: States, depth: int) -> Any:
        """The item below one step: replaced when a path ends here, else looked through."""
        if any(at == len(path.steps) for path, at in states):
            return REDACTED
        return self._walk(item, states, depth + 1)

    def capture(
        self, root: Root, value: Any, paths: tuple[str, ...] = (), *, record: bool = True, whole: str = ""
    ) -> Captured:
        """What the ledger keeps of ``value``. Never raises: what is not JSON is kept as its digest and a mark.

        ``whole`` is the SHA-256 (hex) that an agent's process made of a result of which ``value`` is only a view; the
        digest is then over that text."""
        canonical = _canonical(value)
        salt = clock.random_bytes(16)
        digest = hashlib.sha256(salt + (whole.encode() or canonical)).hexdigest()
        if not record:
            return Captured(salt, digest, len(canonical), None, "")
        text = self._stored_text(root, value, canonical, paths, digest)
        same = text == canonical and not whole
        stored = "" if same else hashlib.sha256(salt + text).hexdigest()
        return Captured(salt, digest, len(canonical), text.decode(), stored)

    def _stored_text(self, root: Root, value: Any, canonical: bytes, paths: tuple[str, ...], digest: str) -> bytes:
        if len(canonical) > MAX_STORED_BYTES:
            return _encoder.encode({"«cut»": True, "bytes": len(canonical), "digest": digest})
        redacted = self.redact(root, value, paths)
        return canonical if redacted is value else _canonical(redacted)


State = tuple[RedactionPath, int]
States = tuple[State, ...]
"""Paths under way: each with the number of its steps already taken."""


@lru_cache(maxsize=4096)
def _paths(root: Root, paths: tuple[str, ...]) -> tuple[RedactionPath, ...]:
    """Those of this root. A policy holds none that cannot be parsed; one that comes here all the same hides all."""
    found: list[RedactionPath] = []
    for text in paths:
        try:
            path = parse_path(text)
        except ValueError:
            path = RedactionPath(root, (), text)
        if path.root == root:
            found.append(path)
    return tuple(found)


@lru_cache(maxsize=4096)
def _states(root: Root, paths: tuple[str, ...]) -> States:
    return tuple((path, 0) for path in _paths(root, paths))


def _advance(states: States, key: Any) -> States:
    """The paths that lead through ``key`` (a name, or the index of a list)."""
    found: list[State] = []
    for path, at in states:
        step = path.steps[at]
        if step.kind == "descend":
            found.append((path, at))
        if _takes(step.kind, step.name, step.index, key):
            found.append((path, at + 1))
    return tuple(found)


def _takes(kind: str, name: str, index: int, key: Any) -> bool:
    if kind == "any":
        return True
    if kind == "index":
        return isinstance(key, int) and key == index
    return isinstance(key, str) and key == name


def _canonical(value: Any) -> bytes:
    """JSON with sorted keys. What cannot be written so is named by its type: nothing of it is guessed at."""
    try:
        return _encoder.encode(value)
    except Exception as error:  # a foreign object's __str__ may raise anything
        return _encoder.encode({"«not JSON»": type(value).__name__, "error": type(error).__name__})
