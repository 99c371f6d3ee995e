"""What never reaches the ledger's values, and what proves them afterwards."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.ledger.redact import MAX_DEPTH, MAX_STORED_BYTES, REDACTED, Redactor
from outrider.redaction import RedactionPath, Step, parse_path

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


def redact(value: Any, *paths: str, root: str = "args") -> Any:
    return Redactor().redact(root, value, paths)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("$.args", ()),
        ("$.result", ()),
        ("$.args.iban", (Step("name", "iban"),)),
        ("$.args.card.number", (Step("name", "card"), Step("name", "number"))),
        ("$.result.items[*].secret", (Step("name", "items"), Step("any"), Step("name", "secret"))),
        ("$.result.*", (Step("any"),)),
        ("$.args.list[3]", (Step("name", "list"), Step("index", index=3))),
        ("$.args['first name']", (Step("name", "first name"),)),
        ('$.args["a.b"]', (Step("name", "a.b"),)),
        ("$.result..ssn", (Step("descend", "ssn"),)),
        ("$.args.größe", (Step("name", "größe"),)),
        ("$.args.set-cookie", (Step("name", "set-cookie"),)),
    ],
)
def test_paths_that_are_understood(text: str, steps: tuple[Step, ...]) -> None:
    """The whole grammar."""
    assert parse_path(text) == RedactionPath("args" if "args" in text else "result", steps, text)


@pytest.mark.parametrize(
    "text",
    [
        "", "$", "args.iban", "$.iban", "$args.iban", "$.argsx.iban", "$.arguments", "$.args.", "$.args.iban.",
        "$.args[-1]", "$.args[1:2]", "$.args[?(@.x)]", "$.args[]", "$.args.a b", "$.args..", "$.args..*", "$.args['']",
        "$.args.1a", "$.args['a'", " $.args.iban", "$.args.iban ", "$.args[1,2]",
        "$.args" + ".a" * 33, "$.args." + "a" * 600,
    ],
)  # fmt: skip
def test_paths_that_are_not_understood_are_refused_with_what_may_be_written(text: str) -> None:
    """A path that is misread keeps a secret in the record."""
    with pytest.raises(ValueError, match=r"\$\.args|segments|characters"):
        parse_path(text)


@pytest.mark.parametrize(
    "name",
    [
        "password", "Password", "PASSWD", "pwd", "secret", "token", "api_key", "apikey", "apiKey", "X-Api-Key",
        "Authorization", "proxy-authorization", "cookie", "Set-Cookie", "private_key", "access_token", "accessToken",
        "refresh_token", "client_secret", "db_password", "GITHUB_TOKEN", "aws.secret.key", "credentials", "passphrase",
    ],
)  # fmt: skip
def test_names_that_everybody_keeps_secret_are_redacted_without_being_asked(name: str) -> None:
    """However they are written, at any depth, whatever the value."""
    assert redact({"a": [{"b": {name: {"deep": "x"}}}], "c": 1}) == {"a": [{"b": {name: REDACTED}}], "c": 1}


@pytest.mark.parametrize(
    "name", ["max_tokens", "tokenizer", "secretary", "author", "passport_office", "keyboard", "cookies_eaten"]
)
def test_names_that_only_look_alike_are_kept(name: str) -> None:
    """Redacting everything would leave nothing to read."""
    assert redact({name: "x"}) == {name: "x"}


def test_a_policy_may_name_more() -> None:
    """Compared in the same way."""
    redactor = Redactor(["Patient-ID"])
    assert redactor.redact("args", {"patientId": 7, "patient_id": 8, "id": 9}) == {
        "patientId": REDACTED,
        "patient_id": REDACTED,
        "id": 9,
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$.args.iban", {"iban": REDACTED, "to": [{"iban": 2, "x": 3}, {"iban": 4}]}),
        ("$.args.to[*].iban", {"iban": 1, "to": [{"iban": REDACTED, "x": 3}, {"iban": REDACTED}]}),
        ("$.args.to[1]", {"iban": 1, "to": [{"iban": 2, "x": 3}, REDACTED]}),
        ("$.args..iban", {"iban": REDACTED, "to": [{"iban": REDACTED, "x": 3}, {"iban": REDACTED}]}),
        ("$.args.*", {"iban": REDACTED, "to": REDACTED}),
        ("$.args", REDACTED),
        ("$.args.nothing.here", {"iban": 1, "to": [{"iban": 2, "x": 3}, {"iban": 4}]}),
        ("$.result.iban", {"iban": 1, "to": [{"iban": 2, "x": 3}, {"iban": 4}]}),
    ],
)
def test_paths_redact_what_they_name_and_nothing_else(path: str, expected: Any) -> None:
    """And never change what was passed in."""
    value = {"iban": 1, "to": [{"iban": 2, "x": 3}, {"iban": 4}]}
    assert redact(value, path) == expected
    assert value == {"iban": 1, "to": [{"iban": 2, "x": 3}, {"iban": 4}]}


def test_a_path_that_cannot_be_understood_hides_everything() -> None:
    """A policy refuses such a path at load; should one get here, nothing is stored rather than too much."""
    assert redact({"a": 1}, "$.args[?(@.x)]") == REDACTED
    assert redact({"a": 1}, "nonsense", root="result") == REDACTED


def test_several_paths_and_names_work_together() -> None:
    """In one walk."""
    value = {"a": {"b": 1, "c": 2}, "token": 3, "d": [4, 5]}
    assert redact(value, "$.args.a.b", "$.args.d[0]", "$.result.x") == {
        "a": {"b": REDACTED, "c": 2},
        "token": REDACTED,
        "d": [REDACTED, 5],
    }


def test_what_needs_no_change_is_the_same_object() -> None:
    """The common case costs no copy."""
    value = {"query": "hotels", "filters": {"stars": [3, 4]}}
    assert redact(value, "$.args.iban") is value


@given(value=json_values)
def test_no_secret_survives_anywhere(value: Any) -> None:
    """Property: after redaction no value remains under a secret name, and redacting again changes nothing."""
    wrapped = {"x": value, "password": value, "list": [{"Api-Key": value}]}
    once = redact(wrapped)
    assert once["password"] == REDACTED and once["list"] == [{"Api-Key": REDACTED}]
    assert redact(once) is once or redact(once) == once


def test_what_is_too_deep_to_look_through_is_not_kept() -> None:
    """Deeper than arguments may be; a result is the upstream's and may be anything."""
    value: Any = {"password": "x"}
    for _ in range(MAX_DEPTH + 10):
        value = {"a": value}
    assert '"x"' not in msgspec.json.encode(redact(value)).decode()


def test_an_object_that_json_would_show_with_its_fields_is_looked_through() -> None:
    """A dataclass hides no secret."""

    @dataclass
    class Login:
        user: str
        password: str

    kept = Redactor().capture("args", {"login": Login("u", "hunter2"), "all": [Login("v", "hunter3")]})
    assert kept.text is not None and "hunter" not in kept.text and '"user":"u"' in kept.text


def test_the_digest_is_of_the_unredacted_value_and_the_salt() -> None:
    """Whoever has the value and the salt can prove it; the stored text has a digest of its own."""
    value = {"token": "x", "a": 1}
    kept = Redactor().capture("args", value)
    canonical = b'{"a":1,"token":"x"}'
    assert kept.digest == hashlib.sha256(kept.salt + canonical).hexdigest()
    assert kept.size == len(canonical)
    assert kept.text == f'{{"a":1,"token":"{REDACTED}"}}'
    assert kept.stored == hashlib.sha256(kept.salt + kept.text.encode()).hexdigest()
    assert len(kept.salt) == 16


def test_equal_values_have_unequal_digests() -> None:
    """Without the salt nobody can tell that two calls had the same arguments, or guess them."""
    redactor = Redactor()
    assert redactor.capture("args", {"a": 1}).digest != redactor.capture("args", {"a": 1}).digest


def test_unredacted_values_need_no_second_digest() -> None:
    """The order of keys does not matter."""
    kept = Redactor().capture("args", {"b": 2, "a": 1})
    assert kept.text == '{"a":1,"b":2}' and kept.stored == ""


def test_a_value_that_the_policy_does_not_record_leaves_its_digest_and_salt() -> None:
    """It can still be proved."""
    kept = Redactor().capture("result", [1, 2], record=False)
    assert kept.text is None and kept.stored == ""
    assert kept.digest == hashlib.sha256(kept.salt + b"[1,2]").hexdigest()


def test_a_value_over_64_kb_is_cut_to_a_marked_stub() -> None:
    """With its size and its digest."""
    kept = Redactor().capture("result", {"text": "x" * MAX_STORED_BYTES})
    assert kept.text is not None and len(kept.text) < 200
    assert msgspec.json.decode(kept.text) == {"«cut»": True, "bytes": MAX_STORED_BYTES + 11, "digest": kept.digest}
    assert kept.stored


def test_a_result_that_stayed_elsewhere_is_committed_to_by_its_own_digest() -> None:
    """The agent's process sent a view and the SHA-256 of the whole."""
    kept = Redactor().capture("result", {"view": 1}, whole="ab" * 32)
    assert kept.digest == hashlib.sha256(kept.salt + b"ab" * 32).hexdigest()
    assert kept.stored == hashlib.sha256(kept.salt + b'{"view":1}').hexdigest()


class Nasty:
    """Has no JSON form, and no text either."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def deep() -> Any:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {("t",): 1}, {"a": float("nan")}, {"a": 2**70}, {1: 2}])
def test_values_that_are_not_quite_json_are_kept_as_far_as_they_go(value: Any) -> None:
    """Nothing a tool returns may stop the record of it."""
    kept = Redactor().capture("result", value)
    assert kept.text is not None and msgspec.json.decode(kept.text) is not None


def test_values_that_are_not_json_at_all_are_kept_as_a_mark() -> None:
    """Too deep, or an object that cannot be shown."""
    kept = Redactor().capture("result", deep())
    assert kept.text is not None and kept.text.strip("[]") == f'"{REDACTED}"'
    kept = Redactor().capture("result", {"a": Nasty(), "b": 1})
    assert kept.text == f'{{"a":"{REDACTED}","b":1}}'
    kept = Redactor().capture("result", {("t",): Nasty()})
    assert kept.text is not None and "«not JSON»" in kept.text
