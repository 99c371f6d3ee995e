"""What a function's exception says about the function, by its qualified names."""

from __future__ import annotations

import http.client
import inspect
import socket
import ssl
import urllib.error
from types import ModuleType

import aiohttp
import httpx
import pytest
import requests
import urllib3

from outrider.calls import OutcomeKind, Reason
from outrider.upstreams.exceptions import EXCEPTIONS, GRPC_STATUSES, KIND_OF_REASON, TEXT_CHARS, TYPES_MAX, judge
from outrider.wire import Raised

NOT_EXECUTED, UNKNOWN, DEFINITE = OutcomeKind.NOT_EXECUTED, OutcomeKind.UNKNOWN, OutcomeKind.DEFINITE


def name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def raised(kind: type, **fields: object) -> Raised:
    mro = tuple(name_of(one) for one in kind.__mro__ if one not in (object, BaseException))
    return Raised(type=name_of(kind), mro=mro, **fields)  # type: ignore[arg-type]


def foreign(*mro: str, **fields: object) -> Raised:
    """An exception of a library that is not installed here."""
    return Raised(type=mro[0], mro=(*mro, "builtins.Exception"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ConnectionRefusedError, Reason.CONNECT),
        (socket.gaierror, Reason.CONNECT),
        (ssl.SSLCertVerificationError, Reason.CONNECT),
        (ssl.SSLError, Reason.RESET),
        (ConnectionResetError, Reason.RESET),
        (BrokenPipeError, Reason.RESET),
        (TimeoutError, Reason.TIMEOUT),
        (http.client.RemoteDisconnected, Reason.RESET),
        (http.client.IncompleteRead, Reason.PROTOCOL),
        (urllib.error.URLError, Reason.RESET),
        (urllib.error.HTTPError, Reason.RAISED),
        (requests.exceptions.ConnectTimeout, Reason.CONNECT),
        (requests.exceptions.ConnectionError, Reason.RESET),
        (requests.exceptions.SSLError, Reason.RESET),
        (requests.exceptions.ReadTimeout, Reason.TIMEOUT),
        (requests.exceptions.ChunkedEncodingError, Reason.PROTOCOL),
        (requests.exceptions.HTTPError, Reason.RAISED),
        (requests.exceptions.JSONDecodeError, Reason.RAISED),
        (requests.exceptions.MissingSchema, Reason.RAISED),
        (urllib3.exceptions.NewConnectionError, Reason.CONNECT),
        (urllib3.exceptions.NameResolutionError, Reason.CONNECT),
        (urllib3.exceptions.ReadTimeoutError, Reason.TIMEOUT),
        (urllib3.exceptions.ProtocolError, Reason.RESET),
        (urllib3.exceptions.IncompleteRead, Reason.PROTOCOL),
        (urllib3.exceptions.LocationParseError, Reason.RAISED),
        (httpx.ConnectError, Reason.CONNECT),
        (httpx.ConnectTimeout, Reason.CONNECT),
        (httpx.PoolTimeout, Reason.CONNECT),
        (httpx.ReadTimeout, Reason.TIMEOUT),
        (httpx.ReadError, Reason.RESET),
        (httpx.RemoteProtocolError, Reason.PROTOCOL),
        (httpx.LocalProtocolError, Reason.RAISED),
        (httpx.UnsupportedProtocol, Reason.RAISED),
        (aiohttp.ClientConnectorError, Reason.CONNECT),
        (aiohttp.ClientConnectorDNSError, Reason.CONNECT),
        (aiohttp.ClientConnectorCertificateError, Reason.CONNECT),
        (aiohttp.ConnectionTimeoutError, Reason.CONNECT),
        (aiohttp.ServerDisconnectedError, Reason.RESET),
        (aiohttp.ClientOSError, Reason.RESET),
        (aiohttp.SocketTimeoutError, Reason.TIMEOUT),
        (aiohttp.ClientPayloadError, Reason.PROTOCOL),
        (aiohttp.InvalidURL, Reason.RAISED),
        (ValueError, Reason.RAISED),
        (OSError, Reason.RAISED),
        (KeyError, Reason.RAISED),
    ],
)
def test_a_librarys_exception_is_judged_by_the_first_name_a_table_knows(kind: type, reason: Reason) -> None:
    """The real class's own MRO decides, most specific first."""
    outcome, failure = judge(raised(kind))
    assert (failure.reason, outcome) == (reason, KIND_OF_REASON[reason])


@pytest.mark.parametrize(
    ("exception", "kind"),
    [
        (foreign("botocore.exceptions.EndpointConnectionError", "botocore.exceptions.ConnectionError"), NOT_EXECUTED),
        (foreign("botocore.exceptions.ConnectTimeoutError", "botocore.exceptions.ConnectionError"), NOT_EXECUTED),
        (foreign("botocore.exceptions.ReadTimeoutError", "botocore.exceptions.HTTPClientError"), UNKNOWN),
        (foreign("botocore.exceptions.ConnectionClosedError", "botocore.exceptions.HTTPClientError"), UNKNOWN),
        (foreign("botocore.exceptions.ClientError", status=400), DEFINITE),
        (foreign("botocore.exceptions.NoCredentialsError", "botocore.exceptions.BotoCoreError"), DEFINITE),
        (foreign("grpc._channel._InactiveRpcError", "grpc.RpcError"), UNKNOWN),
        (foreign("grpc.aio._call.AioRpcError", "grpc.RpcError", status=14), UNKNOWN),
        (foreign("grpc.aio._call.AioRpcError", "grpc.RpcError", status=4), UNKNOWN),
        (foreign("grpc.aio._call.AioRpcError", "grpc.RpcError", status=3), DEFINITE),
        (foreign("mine.ToolError"), DEFINITE),
    ],
)
def test_libraries_that_are_not_installed_here_are_judged_by_name(exception: Raised, kind: OutcomeKind) -> None:
    """botocore, grpc, and an exception that nobody shipped a row for."""
    assert judge(exception)[0] is kind


def test_a_subclass_of_the_users_own_is_judged_by_its_base() -> None:
    """``class LedgerDown(requests.ConnectionError)`` says what its base says."""

    class LedgerDown(requests.exceptions.ConnectTimeout):
        pass

    kind, failure = judge(raised(LedgerDown))
    assert kind is NOT_EXECUTED
    assert failure.types[0].endswith("LedgerDown") and "requests.exceptions.Timeout" in failure.types


def test_a_status_makes_it_definite_and_stays_readable() -> None:
    """The other side answered: whatever the class, nothing is in doubt. ``retryOn`` and ``Retry-After`` see it."""
    kind, failure = judge(raised(requests.exceptions.HTTPError, status=503, retry_after_s=2.5, text="busy"))
    assert kind is DEFINITE
    assert (failure.reason, failure.status, failure.retry_after_s) == (Reason.RAISED, 503, 2.5)
    assert failure.text == "HTTPError: busy"
    assert judge(raised(requests.exceptions.ConnectionError, status=400))[0] is DEFINITE


def test_a_grpc_status_is_never_shown_as_an_http_status() -> None:
    """14 is UNAVAILABLE, not a status of HTTP."""
    assert judge(foreign("grpc.aio._call.AioRpcError", "grpc.RpcError", status=14))[1].status is None


def test_every_reason_in_the_tables_has_a_kind() -> None:
    """No row leads nowhere."""
    assert {*EXCEPTIONS.values(), *GRPC_STATUSES.values()} <= set(KIND_OF_REASON)


@pytest.mark.parametrize("module", [requests.exceptions, httpx, aiohttp.client_exceptions, urllib3.exceptions])
def test_every_row_names_a_class_that_exists(module: ModuleType) -> None:
    """A renamed exception must not silently become definite."""
    rows = [name for name in EXCEPTIONS if name.rpartition(".")[0] == module.__name__]
    assert rows
    for row in rows:
        found = getattr(module, row.rpartition(".")[2])
        assert inspect.isclass(found) and name_of(found) == row


def test_transport_errors_of_the_clients_are_all_judged() -> None:
    """No class below these roots falls through to "definite" by oversight."""
    by_hand = {"LocalProtocolError", "UnsupportedProtocol"}
    for root in (httpx.TransportError, aiohttp.ClientConnectionError, requests.exceptions.ConnectionError):
        for kind in (root, *root.__subclasses__()):
            if kind.__name__ not in by_hand and kind.__module__.startswith(("httpx", "aiohttp", "requests")):
                assert judge(raised(kind))[0] is not DEFINITE, kind


def test_text_and_names_are_bounded() -> None:
    """An exception cannot fill the ledger."""
    mro = tuple(f"mine.E{n}" for n in range(1000))
    _, failure = judge(Raised(type="mine.E", text="x" * 100_000, mro=mro))
    assert len(failure.text) == TEXT_CHARS and len(failure.types) == TYPES_MAX


def test_an_exception_without_an_mro_is_known_by_its_type() -> None:
    """A poor adapter still gets the table."""
    assert judge(Raised(type="builtins.ConnectionRefusedError"))[0] is NOT_EXECUTED
