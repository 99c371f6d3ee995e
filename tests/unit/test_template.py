"""Arguments become requests, and cannot choose another resource than the template's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.policy.plans import HttpTemplate
from outrider.upstreams.template import TemplateError, render


def test_without_a_template_the_operation_is_the_path_and_the_arguments_are_the_body() -> None:
    """The default is POST {url}/{operation} with the arguments as JSON."""
    request = render(HttpTemplate(), "create_payment", {"amount": 5, "to": "x"})
    assert (request.method, request.path, request.body) == ("POST", "/create_payment", b'{"amount":5,"to":"x"}')
    assert request.headers == {"Content-Type": "application/json"}


def test_values_in_a_path_are_encoded_whole_slashes_too() -> None:
    """A slash in an argument is data."""
    template = HttpTemplate(method="GET", path="/accounts/{args.id}/balance")
    assert render(template, "x", {"id": "a/b?c#d %"}).path == "/accounts/a%2Fb%3Fc%23d%20%25/balance"


@pytest.mark.parametrize("value", ["", ".", "..", None])
def test_an_empty_or_dot_segment_is_refused(value: object) -> None:
    """`..` would name another resource than the template's."""
    with pytest.raises(TemplateError):
        render(HttpTemplate(method="GET", path="/accounts/{args.id}/x"), "x", {"id": value})


def test_two_values_that_together_make_a_dot_segment_are_refused() -> None:
    """The segment counts, not each value."""
    with pytest.raises(TemplateError, match="dot segment"):
        render(HttpTemplate(path="/f/{args.a}{args.b}"), "x", {"a": ".", "b": "."})


def test_a_missing_path_argument_is_named() -> None:
    """The caller learns which argument the path needs."""
    with pytest.raises(TemplateError, match="'who.id' is needed"):
        render(HttpTemplate(path="/u/{args.who.id}"), "x", {"who": {}})


def test_a_query_parameter_whose_argument_is_missing_is_left_out() -> None:
    """Optional arguments stay optional."""
    template = HttpTemplate(method="GET", path="/a/{args.id}", query={"at": "{args.at}", "v": "2"})
    assert render(template, "x", {"id": 1}).path == "/a/1?v=2"
    assert render(template, "x", {"id": 1, "at": "now&then"}).path == "/a/1?at=now%26then&v=2"


def test_arguments_that_no_template_used_are_query_for_get_and_body_for_post() -> None:
    """No argument is dropped silently."""
    assert render(HttpTemplate(method="GET", path="/s"), "x", {"q": "a b", "n": 3}).path == "/s?q=a+b&n=3"
    assert render(HttpTemplate(path="/s/{args.id}"), "x", {"id": 1, "n": 3}).body == b'{"n":3}'


def test_a_body_template_keeps_types_and_structure() -> None:
    """A string that is one placeholder becomes the value itself."""
    template = HttpTemplate(body={"sum": "{args.amount}", "memo": "for {args.who}", "tags": ["{args.tags}"]})
    request = render(template, "x", {"amount": 5, "who": "me", "tags": ["a"]})
    assert request.body == b'{"sum":5,"memo":"for me","tags":[["a"]]}'


def test_a_value_that_looks_like_a_placeholder_is_only_a_value() -> None:
    """Substitution is one pass."""
    template = HttpTemplate(method="GET", path="/s", query={"q": "{args.a} {args.b}"})
    assert render(template, "x", {"a": "{args.b}", "b": "B"}).path == "/s?q=%7Bargs.b%7D+B"


def test_a_header_value_cannot_smuggle_a_line_break() -> None:
    """Control characters in a header are refused."""
    with pytest.raises(TemplateError, match="control character"):
        render(HttpTemplate(headers={"X-Who": "{args.who}"}), "x", {"who": "a\r\nX-Admin: 1"})


@given(st.text(max_size=30))
def test_whatever_the_value_the_path_keeps_its_shape(value: str) -> None:
    """For every text: refused, or exactly one segment between the template's own."""
    try:
        path = render(HttpTemplate(method="GET", path="/a/{args.id}/z"), "x", {"id": value}).path
    except (TemplateError, UnicodeEncodeError):
        return
    before, middle, after = path.split("/")[1:]
    assert (before, after) == ("a", "z") and middle not in {"", ".", ".."} and "?" not in middle


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_the_same_arguments_give_the_same_bytes(args: dict[str, object]) -> None:
    """A keyed retry is byte-identical."""
    try:
        assert render(HttpTemplate(), "x", args) == render(HttpTemplate(), "x", dict(args))
    except UnicodeEncodeError:
        return
