"""What leaves the agent's process: views, digests, exceptions; and the settings it is told."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from outrider.errors import Misconfigured
from outrider_adapters import environment, faults, views

LIMIT = 64 * 1024

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


def view_of(value: Any) -> Any:
    return json.loads(msgspec.json.encode(views.summarise(value, LIMIT).view))


@given(json_values)
def test_a_small_results_view_is_the_result(value: Any) -> None:
    """Nothing is lost of what fits; lone surrogates alone are replaced."""
    expected = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    assert view_of(value) == expected


@given(json_values, st.integers(1, 64))
def test_the_digest_does_not_depend_on_how_large_results_are_cut(value: Any, piece: int) -> None:
    """Walked in pieces or encoded at once, a result has one digest and one size."""
    whole = b"".join(views._pieces(value, 0))
    assert whole == views.json_bytes(value)
    before = views.SMALL, views.PIECE, views.BATCH
    try:
        views.SMALL, views.PIECE, views.BATCH = piece, max(3, piece), max(1, piece // 8)
        summary = views.summarise(value, LIMIT)
    finally:
        views.SMALL, views.PIECE, views.BATCH = before
    assert (summary.digest, summary.size) == (hashlib.sha256(whole).hexdigest(), len(whole))


@pytest.mark.parametrize(
    "value",
    [
        "x" * 20_000_000,
        "ü€😀" * 2_000_000,
        [{"id": number, "text": "t" * 80} for number in range(150_000)],
        {"rows": list(range(2_000_000))},
        b"\x00\xff" * 10_000_000,
    ],
    ids=["text", "unicode", "rows", "numbers", "bytes"],
)
def test_a_result_of_20_megabytes_is_digested_whole_and_viewed_in_part(value: Any) -> None:
    """The view stays below its limit and says that it is cut; digest and size are of the whole."""
    summary = views.summarise(value, LIMIT)
    whole = views.json_bytes(value)
    assert (summary.size, summary.digest) == (len(whole), hashlib.sha256(whole).hexdigest())
    encoded = msgspec.json.encode(summary.view)
    assert len(encoded) <= LIMIT
    assert b"cut by Outrider" in encoded


def test_no_step_of_a_large_result_holds_the_interpreter_for_long() -> None:
    """The pieces are small, so that the agent's loop gets its turns."""
    rows = [{"id": number, "text": "t" * 80} for number in range(100_000)]
    longest, last = 0.0, time.perf_counter()
    for piece in views._pieces({"rows": rows, "text": "x" * 5_000_000}, 0):
        assert len(piece) <= 4 * views.SMALL
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    assert longest < 0.25


class Model(BaseModel):
    name: str
    count: int


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Opaque:
    """Has no repr of its own."""


class Hostile:
    """Raises whatever is asked."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def model_dump(self, mode: str) -> Any:
        raise RuntimeError("no dump")


def test_results_without_a_json_form_are_told_by_what_can_be_said() -> None:
    """Models by their fields, objects by a label that is the same in each run."""
    assert view_of(Model(name="a", count=2)) == {"name": "a", "count": 2}
    assert view_of(Point(1, 2)) == {"x": 1, "y": 2}
    assert view_of(Opaque()).endswith("test_adapter_values.Opaque>")
    assert "Hostile" in view_of(Hostile())
    assert view_of({"of": Opaque}) == {"of": f"{Opaque!r}"}
    assert view_of(math.nan) is None
    assert view_of(2**80) in (2**80, str(2**80))
    assert view_of("\ud800 half") == "? half"
    assert view_of({("a", 1): "tuple keys"}) == {"('a', 1)": "tuple keys"}
    assert view_of(deque([1, 2])) == [1, 2]
    assert sorted(view_of({3, 1, 2})) == [1, 2, 3]


def test_cycles_and_bottomless_nesting_end() -> None:
    """The encoder gives up, the slow way cuts."""
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    assert "…" in json.dumps(view_of(cycle), ensure_ascii=False)
    assert "…" in json.dumps(view_of(deep), ensure_ascii=False)


def test_only_changed_arguments_count_as_changed() -> None:
    """What comes back as it was sent keeps the caller's object."""
    assert views.changes({"a": Opaque(), "b": 1}, {"a": views.label(Opaque()), "b": 2, "c": 3}) == {"b": 2, "c": 3}


# ── exceptions ───────────────────────────────────────────────────────────────────────────────────────────────────


def answer(status: int, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def test_the_status_of_a_requests_error_is_read_although_its_response_is_falsy() -> None:
    """``bool(response)`` is False for an error status."""
    raised = faults.raised(requests.HTTPError("slow down", response=answer(429, Retry_After="7")))
    assert (raised.status, raised.retry_after_s) == (429, 7.0)
    assert raised.mro[0] == "requests.exceptions.HTTPError"


def test_httpx_and_botocore_errors_tell_status_and_wait() -> None:
    """Each library keeps them elsewhere."""
    request = httpx.Request("GET", "http://localhost/")
    response = httpx.Response(503, headers={"retry-after": "2"}, request=request)
    raised = faults.raised(httpx.HTTPStatusError("busy", request=request, response=response))
    assert (raised.status, raised.retry_after_s) == (503, 2.0)

    class ClientError(Exception):
        response = {"ResponseMetadata": {"HTTPStatusCode": 400, "HTTPHeaders": {"retry-after": "1"}}}

    raised = faults.raised(ClientError("throttled"))
    assert (raised.status, raised.retry_after_s) == (400, 1.0)


def test_grpc_tells_its_own_number() -> None:
    """``code()`` is a method, its value (number, text)."""

    class Status:
        value = (14, "unavailable")

    class RpcError(Exception):
        def code(self) -> Status:
            return Status()

    assert faults.raised(RpcError()).status == 14


def test_the_reason_inside_a_requests_connection_error_comes_first() -> None:
    """requests has one class for "never sent" and "broken after sending"; urllib3's reason tells them apart."""
    pool = urllib3.HTTPConnectionPool("localhost")
    reason = urllib3.exceptions.NewConnectionError(pool, "refused")  # type: ignore[arg-type]
    wrapped = urllib3.exceptions.MaxRetryError(pool, "/", reason)
    names = faults.names_of(requests.ConnectionError(wrapped))
    assert names[0] == "urllib3.exceptions.NewConnectionError"
    assert "requests.exceptions.ConnectionError" in names


def test_a_retry_after_that_is_a_date_is_seconds_from_now() -> None:
    """RFC 9110, section 10.2.3; a date in the past and nonsense are no wait."""
    for text, expected in (("Wed, 21 Oct 2015 07:28:00 GMT", None), ("soon", None), ("-3", None), ("0", 0.0)):
        assert faults.raised(requests.HTTPError(response=answer(503, Retry_After=text))).retry_after_s == expected


def test_an_exception_that_cannot_even_say_its_text_is_told_by_its_class() -> None:
    """Reading an exception never raises."""

    class Rude(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

        @property
        def response(self) -> Any:
            raise ValueError("no")

    raised = faults.raised(Rude())
    assert raised.type.endswith("Rude") and raised.text == "" and raised.status is None


def test_long_texts_are_cut_and_half_characters_replaced() -> None:
    """An exception's text is bounded and always UTF-8."""
    assert len(faults.text_of(ValueError("x" * 10_000))) == faults.TEXT_CHARS
    assert faults.text_of(ValueError("\ud800")) == "?"


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_arguments_win_over_the_environment() -> None:
    """What the program says, it means."""
    env = {"OUTRIDER_URL": "http://h:1", "OUTRIDER_TOKEN": "of-env", "OUTRIDER_AGENT": "env"}
    found = environment.read(env, url="unix:/run/outrider.sock", token="t", agent="arg")
    assert (found.url, found.bearer(), found.agent) == ("unix:/run/outrider.sock", "t", "arg")
    assert found.socket_path == "/run/outrider.sock" and found.channel_url == "http://localhost/v1/channel"
    assert environment.read(env).agent == "env"
    assert "t" not in repr(found).replace("token", "").split("url")[0]


def test_every_fault_of_the_settings_is_told_at_once(tmp_path: Path) -> None:
    """Where, what, and how to mend it."""
    env = {"OUTRIDER_URL": "127.0.0.1:7070", "OUTRIDER_CA_FILE": "/none", "OUTRIDER_CONNECT_WAIT": "soon"}
    with pytest.raises(Misconfigured) as caught:
        environment.read(env)
    text = str(caught.value)
    for word in ("OUTRIDER_URL", "OUTRIDER_TOKEN", "OUTRIDER_CA_FILE", "OUTRIDER_CONNECT_WAIT"):
        assert word in text
    assert len(caught.value.faults) == 4 and all(fault.fix for fault in caught.value.faults)


def test_a_token_file_that_is_empty_or_missing_is_a_fault(tmp_path: Path) -> None:
    """Before anything starts."""
    empty = tmp_path / "token"
    empty.write_text("\n")
    with pytest.raises(Misconfigured, match="is empty"):
        environment.read({"OUTRIDER_TOKEN_FILE": str(empty)})
    with pytest.raises(Misconfigured, match="cannot be read"):
        environment.read({"OUTRIDER_TOKEN_FILE": str(tmp_path / "none")})


def test_a_token_is_never_shown() -> None:
    """Not in a repr, so not in a log or a traceback."""
    assert "secret-token" not in repr(environment.read({}, token="secret-token"))
