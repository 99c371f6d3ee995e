"""The words of MCP: values in headers survive the way, and errors of others never break ours."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.mcp_wire import INTERNAL_ERROR, RpcError, decode_header, encode_header, header_text, mirrored


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_every_text_comes_back_from_a_header(text: str) -> None:
    """Whatever an argument says, the header says the same, and it is one that HTTP can carry."""
    sent = encode_header(text)
    assert decode_header(sent) == text
    assert sent.isascii() and (sent.isprintable() or sent == "")


@pytest.mark.parametrize("text", ["=?base64?SGVsbG8?=", "=?base64?SGVs!!!bG8=?=", "=?base64?/w==?="])
def test_a_header_that_says_base64_and_is_none_is_refused(text: str) -> None:
    """Never taken as it stands."""
    with pytest.raises(ValueError, match="base64"):
        decode_header(text)


@pytest.mark.parametrize("text", ["SGVsbG8=", "=?base64?SGVsbG8=", "SGVsbG8=?=", "=?utf-8?q?x?="])
def test_a_header_without_both_marks_is_as_it_stands(text: str) -> None:
    """Only the whole mark is one."""
    assert decode_header(text) == text


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (7, "7"), ("x", "x"), (None, None), (1.5, None), ([], None)]
)
def test_a_header_says_texts_whole_numbers_and_truths(value: Any, text: str | None) -> None:
    """Nothing else has one spelling."""
    assert header_text(value) == text


def test_headers_are_found_in_nested_properties_only() -> None:
    """Not behind a reference, not in a list."""
    schema = {
        "properties": {
            "a": {"type": "string", "x-mcp-header": "A"},
            "b": {"properties": {"c": {"x-mcp-header": "C"}}},
            "d": {"items": {"properties": {"e": {"x-mcp-header": "E"}}}},
        }
    }
    assert sorted(mirrored(schema)) == [("A", ("a",)), ("C", ("b", "c"))]
    assert [*mirrored("no schema"), *mirrored({"properties": []})] == []


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_an_error_of_another_is_an_error_whatever_it_is(error: Any) -> None:
    """A server that errs in its errors does not break its caller."""
    found = RpcError.of(error).as_dict()
    assert isinstance(found["code"], int) and isinstance(found["message"], str)


def test_an_error_without_a_code_is_an_internal_one() -> None:
    """As far as anybody can say."""
    assert RpcError.of({"message": "odd", "code": True}).code == INTERNAL_ERROR
