"""What leaves the process of arguments and results: JSON, bounded. The objects themselves stay.

A result's digest is the SHA-256 of its JSON text (compact, UTF-8, as msgspec writes it; what has no JSON form is
written by ``stand_in``); its size is that text's length in bytes; its view is that text when it is small, else its
head with a mark. A large result is walked piece by piece, so that no step holds the interpreter lock for long.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

SMALL = 64 * 1024
"""What may be encoded in one go: about that many bytes, counting sixteen for each node (some 0.1 ms)."""
NODE_BYTES = 16
PIECE = 64 * 1024
BATCH = 512
MAX_DEPTH = 32
MAX_NODES = 10_000
LABEL_CHARS = 200
SCALARS = frozenset({int, float, bool, type(None)})
CONTAINERS = (list, tuple, set, frozenset, deque)


@dataclass(frozen=True, slots=True)
class Summary:
    """A result as the wire carries it. ``view`` is JSON text already (msgspec.Raw)."""

    view: Any
    digest: str
    size: int


def label(value: Any) -> str:
    """A short text for an object that has no JSON form: its own repr where it has one, else its class."""
    kind = type(value)
    name = f"<{kind.__module__}.{kind.__qualname__}>"
    if getattr(kind, "__repr__", None) is object.__repr__:
        return name  # the default repr is a memory address: another one in each run
    try:
        text = repr(value)
    except Exception:
        return name
    return text if len(text) <= LABEL_CHARS else text[: LABEL_CHARS - 1] + "…"


def stand_in(value: Any) -> Any:
    """What msgspec writes for an object it does not know: a pydantic model's own dump, else a label."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        try:
            return dump(mode="json")
        except Exception:
            return label(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, CONTAINERS) else label(value)


encode = msgspec.json.Encoder(enc_hook=stand_in).encode


def plain(value: Any) -> Any:
    """A copy that certainly has a JSON form: what is too deep, too much or unknown becomes a label."""
    return _Plain().copy(value, 0)


class _Plain:
    """The slow way, for what the encoder would not take."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def copy(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int):
            return value if -(2**63) <= value < 2**64 else str(value)
        if isinstance(value, str):
            return _whole_text(value)
        if depth >= MAX_DEPTH or self._left <= 0:
            return "…"
        return self._copy_container(value, depth + 1)

    def _copy_container(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            items = islice(value.items(), max(0, self._left))
            return {_whole_text(key if isinstance(key, str) else str(key)): self.copy(one, depth) for key, one in items}
        if isinstance(value, CONTAINERS):
            return [self.copy(one, depth) for one in islice(value, max(0, self._left))]
        try:
            return msgspec.json.decode(encode(value))
        except Exception:
            return _whole_text(label(value))


def _whole_text(text: str) -> str:
    """Without lone surrogates, which have no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def changes(sent: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Which of the arguments the gateway changed or added. What came back as it was sent keeps the caller's own
    object, which may have had no JSON form."""
    before = msgspec.json.decode(json_bytes(dict(sent)))
    return {name: value for name, value in told.items() if name not in before or before[name] != value}


def json_bytes(value: Any) -> bytes:
    """The JSON text of anything. Never raises but for what no program may catch."""
    try:
        return encode(value)
    except Exception:
        return encode(plain(value))


def weight(value: Any, budget: int) -> int:
    """About how many bytes the JSON text has; stops counting above ``budget``. Walks without recursion."""
    total, stack = 0, [value]
    while stack and total <= budget:
        one = stack.pop()
        total += NODE_BYTES
        kind = type(one)
        if kind in SCALARS:  # first, and by identity: most nodes are scalars, and isinstance is slow on an ABC
            continue
        if kind is str or isinstance(one, (str, bytes, bytearray)):
            total += len(one)
            continue
        members = one if isinstance(one, CONTAINERS) else _values(one)
        total += len(members) * NODE_BYTES
        if total <= budget:
            stack.extend(members)
    return total


def _values(value: Any) -> Collection[Any]:
    return value.values() if type(value) is dict or isinstance(value, Mapping) else ()


def is_small(value: Any) -> bool:
    """Whether it may be encoded at once, even on a loop that others wait for."""
    return weight(value, SMALL) <= SMALL


def summarise(value: Any, view_bytes: int) -> Summary:
    """View, digest and size. ``view_bytes`` bounds the view. A large value takes some 10 ms a megabyte: never call it
    for one on the agent's own loop."""
    if is_small(value):
        data = json_bytes(value)
        size, digest = len(data), hashlib.sha256(data).hexdigest()
        head = data
    else:
        size, digest, head = _by_pieces(value, view_bytes)
    view = msgspec.Raw(head) if size <= view_bytes else _cut(value, head, size, view_bytes)
    return Summary(view, digest, size)


def _by_pieces(value: Any, keep: int) -> tuple[int, str, bytes]:
    size, digest, head = 0, hashlib.sha256(), bytearray()
    for piece in _pieces(value, 0):
        digest.update(piece)
        size += len(piece)
        if len(head) <= keep:
            head += piece
    return size, digest.hexdigest(), bytes(head if size <= keep else head[:keep])


def _cut(value: Any, head: bytes, size: int, view_bytes: int) -> Any:
    """The head of what is too large, with a mark. A text stays a text."""
    room = max(64, view_bytes // 2 - 200)
    mark = f"… [cut by Outrider: {size} bytes of JSON in all]"
    if isinstance(value, str):
        text = _fitting(_whole_text(value[:room]), room)
        return text + mark
    return {"outrider_cut": mark, "head": _fitting(head.decode("utf-8", "ignore"), room)}


def _fitting(text: str, room: int) -> str:
    """The longest head whose JSON text is not above twice ``room``: a control character takes six bytes."""
    text = text[:room]
    while len(encode(text)) > 2 * room:
        text = text[: len(text) // 2]
    return text


def _pieces(value: Any, depth: int) -> Iterator[bytes]:
    """The JSON text of a large value, in pieces of bounded work."""
    if depth > MAX_DEPTH:
        yield encode("…")
    elif isinstance(value, str):
        yield from _string_pieces(value)
    elif isinstance(value, (bytes, bytearray)):
        step = PIECE // 3 * 3
        yield b'"'
        yield from (base64.b64encode(value[at : at + step]) for at in range(0, len(value), step))
        yield b'"'
    elif isinstance(value, Mapping):
        yield from _mapping_pieces(value, depth)
    elif isinstance(value, CONTAINERS):
        yield from _sequence_pieces(value, depth)
    else:
        yield json_bytes(value)


def _string_pieces(text: str) -> Iterator[bytes]:
    yield b'"'
    for at in range(0, len(text), PIECE):
        yield json_bytes(text[at : at + PIECE])[1:-1]
    yield b'"'


def _mapping_pieces(value: Mapping[Any, Any], depth: int) -> Iterator[bytes]:
    yield b"{"
    for at, (key, one) in enumerate(value.items()):
        yield b"," if at else b""
        if is_small(one):
            yield json_bytes({key: one})[1:-1]
            continue
        yield json_bytes({key: 0})[1:-2]
        yield from _pieces(one, depth + 1)
    yield b"}"


def _sequence_pieces(value: Any, depth: int) -> Iterator[bytes]:
    yield b"["
    rest = iter(value)
    first = True
    while batch := list(islice(rest, BATCH)):
        for part in _batches(batch):
            yield b"" if first else b","
            first = False
            if len(part) == 1 and not is_small(part[0]):
                yield from _pieces(part[0], depth + 1)
            else:
                yield json_bytes(part)[1:-1]
    yield b"]"


def _batches(batch: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """A batch whole when it is small, else its members one by one."""
    if weight(batch, SMALL) <= SMALL:
        yield batch
    else:
        yield from ([one] for one in batch)
