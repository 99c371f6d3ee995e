"""Reading: YAML 1.2, strictly, with every value's line, and no text that could crash it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from outrider.policy.strictyaml import MAX_BYTES, MAX_DEPTH, MAX_FAULTS, read


def data(text: str) -> Any:
    document = read("f.yaml", text.encode())
    assert document.faults == [], [str(fault) for fault in document.faults]
    return document.data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("No", "No"), ("1:30", "1:30"), ("2026-11-22", "2026-11-22"),
        ("1_000", "1_000"), ("0b11", "0b11"), ("=", "="), ("<<", "<<"),  # all of these are something else in YAML 1.1
        ("true", True), ("False", False), ("TRUE", True), ("tRUE", "tRUE"), ("null", None), ("~", None), ("", None),
        ("12", 12), ("+12", 12), ("-12", -12), ("007", 7), ("0o17", 15), ("0x1F", 31), ("0o18", "0o18"),
        ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("-1e3", -1000.0), ("1e", "1e"), (".", "."), ("+", "+"), ("-.", "-."),
        ("'12'", "12"), ('"true"', "true"), ("'~'", "~"), ('"\\u00e9"', "é"), ("5s", "5s"), ("20/s", "20/s"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    """The core schema, and nothing of YAML 1.1."""
    found = data(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


def test_each_value_has_its_line() -> None:
    """A key's value has the key's line, an entry of a list its own; what is absent has the nearest around it."""
    document = read("f.yaml", b"a:\n  b: 1\n\n  c:\n    - x\n    - {d: 2}\ne: |\n  text\n")
    lines = {
        (): 1, ("a",): 1, ("a", "b"): 2, ("a", "c"): 4, ("a", "c", 0): 5, ("a", "c", 1): 6, ("a", "c", 1, "d"): 6,
        ("e",): 7, ("a", "c", 9): 4, ("a", "zzz", "y"): 1, ("zzz",): 1,
    }  # fmt: skip
    assert {path: document.place.line_of(path) for path in lines} == lines


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "a:\n ", "[{a: "])
def test_text_that_nests_for_ever_is_a_fault_and_not_a_crash(opening: str) -> None:
    """Composing such nodes overflows the C stack; reading events does not."""
    document = read("f.yaml", (opening * 200_000).encode())
    assert document.faults
    assert {fault.code for fault in document.faults} <= {"E03", "E40", "E42", "E44"}
    assert len(document.faults) <= MAX_FAULTS


def test_the_bounds_themselves_pass() -> None:
    """Values may nest as deep as is said."""
    text = "a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert data(text)
    document = read("f.yaml", b"#" * (MAX_BYTES + 1))
    assert [fault.code for fault in document.faults] == ["E42"]


def test_a_duplicate_key_is_told_with_both_lines_and_the_first_stands() -> None:
    """Never silently the last one."""
    document = read("f.yaml", b"a: 1\nb: {c: 1}\na: 2\n")
    assert document.data == {"a": 1, "b": {"c": 1}}
    (fault,) = document.faults
    assert (fault.code, fault.line, fault.message) == ("E03", 3, "duplicate key 'a' (first at line 1).")


def test_a_billion_laughs_are_refused_at_the_first() -> None:
    """Anchors and aliases are not resolved again and again; they are faults."""
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    document = read("f.yaml", "\n".join(lines).encode())
    assert {fault.code for fault in document.faults} == {"E41"}


@given(st.binary(max_size=200) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@?,\n\t 0.~", max_size=200).map(str.encode))
def test_no_bytes_can_crash_the_reader(raw: bytes) -> None:
    """Whatever stands in the folder, the answer is data or faults."""
    document = read("f.yaml", raw)
    assert document.faults or document.data is not None or document.data is None
    assert all(fault.code in {"E03", "E40", "E41", "E42", "E44"} and fault.message for fault in document.faults)


words = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=15,
)  # fmt: skip


@given(st.dictionaries(words, plain, max_size=4))
def test_what_is_written_in_quotes_is_read_as_it_was(value: dict[str, Any]) -> None:
    """JSON is YAML 1.2: what a program writes as JSON is read the same."""
    document = read("f.yaml", json.dumps(value, ensure_ascii=False).encode())
    assert document.faults == []
    assert document.data == value


def test_the_reader_differs_from_pyyaml_only_where_it_should() -> None:
    """Differential: on text without YAML 1.1's surprises, PyYAML's own loader reads the same."""
    text = "a: [1, 2.5, x, 'y', null, true]\nb:\n  c: |\n    block\n  d: >-\n    folded\n    text\n"
    assert data(text) == yaml.safe_load(text)
