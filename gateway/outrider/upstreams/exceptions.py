"""What a function's exception says about the function: the shipped tables, keyed by qualified class name.

Exceptions arrive as names along the MRO, most specific first, because the process that raised them is another one.
The first name that a table knows decides. What no table knows is ``definite``: the function ran, and failed.

    connect   never sent         → not_executed
    reset, timeout, protocol     → unknown: the request had left, so the other side may have acted
    raised    the library refused, or the other side answered → definite

"Never sent" is said of the connection, not of the function: one that did something else before has run in part. Who has
such functions says so in the policy (``connectErrors: unknown``; ``local_outcomes`` obeys it).

Order inside the MRO matters: aiohttp's ``ClientConnectorError`` is a ``ClientOSError``, requests' ``ConnectTimeout`` is
a ``ConnectionError``. Where one class covers both "never sent" and "sent" (requests' ``ConnectionError``, urllib3's
``MaxRetryError``, every ``SSLError`` but a certificate's), the table says the worse: unknown.

Sources: the exception trees of CPython 3.11, requests 2.34, urllib3 2.8, httpx 0.28, aiohttp 3.14, botocore 1.40 and
grpcio 1.7x, anyio 4; the numbers of gRPC's statuses: grpc/doc/statuscodes.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from outrider.calls import Failure, OutcomeKind, Reason
from outrider.wire import Raised

TEXT_CHARS = 4000
"""The most of an exception's text that is kept."""
TYPES_MAX = 40
"""The longest MRO that is kept."""

KIND_OF_REASON: Mapping[Reason, OutcomeKind] = {
    Reason.CONNECT: OutcomeKind.NOT_EXECUTED,
    Reason.RESET: OutcomeKind.UNKNOWN,
    Reason.TIMEOUT: OutcomeKind.UNKNOWN,
    Reason.PROTOCOL: OutcomeKind.UNKNOWN,
    Reason.RAISED: OutcomeKind.DEFINITE,
}


def _table(module: str, words: Mapping[Reason, str]) -> dict[str, Reason]:
    return {f"{module}.{name}": reason for reason, names in words.items() for name in names.split()}


EXCEPTIONS: Mapping[str, Reason] = {
    **_table(
        "builtins",
        {
            Reason.CONNECT: "ConnectionRefusedError",
            Reason.RESET: "ConnectionResetError ConnectionAbortedError BrokenPipeError ConnectionError",
            Reason.TIMEOUT: "TimeoutError",
        },
    ),
    **_table("socket", {Reason.CONNECT: "gaierror herror"}),
    **_table("ssl", {Reason.CONNECT: "SSLCertVerificationError", Reason.RESET: "SSLError"}),
    **_table("asyncio.exceptions", {Reason.RESET: "IncompleteReadError"}),
    **_table(
        "http.client",
        {Reason.RESET: "RemoteDisconnected", Reason.PROTOCOL: "IncompleteRead BadStatusLine LineTooLong"},
    ),
    **_table("urllib.error", {Reason.RAISED: "HTTPError", Reason.RESET: "URLError ContentTooShortError"}),
    **_table(
        "requests.exceptions",
        {
            Reason.CONNECT: "ConnectTimeout",
            Reason.RESET: "ConnectionError SSLError ProxyError RetryError",
            Reason.TIMEOUT: "ReadTimeout Timeout",
            Reason.PROTOCOL: "ChunkedEncodingError ContentDecodingError",
            Reason.RAISED: "JSONDecodeError",
        },
    ),
    **_table(
        "urllib3.exceptions",
        {
            Reason.CONNECT: "NewConnectionError ConnectTimeoutError NameResolutionError EmptyPoolError ClosedPoolError",
            Reason.RESET: "ProtocolError SSLError ProxyError MaxRetryError",
            Reason.TIMEOUT: "ReadTimeoutError TimeoutError",
            Reason.PROTOCOL: "IncompleteRead InvalidChunkLength DecodeError ResponseNotChunked",
        },
    ),
    **_table(
        "httpx",
        {
            Reason.CONNECT: "ConnectError ConnectTimeout PoolTimeout ProxyError",
            Reason.RESET: "ReadError WriteError CloseError NetworkError TransportError",
            Reason.TIMEOUT: "ReadTimeout WriteTimeout TimeoutException",
            Reason.PROTOCOL: "RemoteProtocolError ProtocolError DecodingError",
            Reason.RAISED: "LocalProtocolError UnsupportedProtocol",
        },
    ),
    **_table(
        "aiohttp.client_exceptions",
        {
            Reason.CONNECT: "ClientConnectorError ConnectionTimeoutError ServerFingerprintMismatch",
            Reason.RESET: "ClientConnectionResetError ClientOSError ServerDisconnectedError ClientConnectionError",
            Reason.TIMEOUT: "SocketTimeoutError ServerTimeoutError",
            Reason.PROTOCOL: "ClientPayloadError",
        },
    ),
    **_table(
        "botocore.exceptions",
        {
            Reason.CONNECT: "EndpointConnectionError ConnectTimeoutError ProxyConnectionError",
            Reason.RESET: "ConnectionClosedError ConnectionError SSLError HTTPClientError",
            Reason.TIMEOUT: "ReadTimeoutError",
            Reason.PROTOCOL: "ResponseStreamingError IncompleteReadError",
        },
    ),
    **_table("grpc", {Reason.RESET: "RpcError"}),
    **_table("anyio", {Reason.RESET: "BrokenResourceError ClosedResourceError EndOfStream IncompleteRead"}),
}

GRPC_STATUSES: Mapping[int, Reason] = {
    1: Reason.RESET,  # CANCELLED
    2: Reason.RESET,  # UNKNOWN
    4: Reason.TIMEOUT,  # DEADLINE_EXCEEDED
    13: Reason.RESET,  # INTERNAL: also what a broken stream reads as
    14: Reason.RESET,  # UNAVAILABLE: gRPC does not say whether the server saw it
    15: Reason.PROTOCOL,  # DATA_LOSS
}
"""gRPC's statuses that say nothing of what ran. Every other status is the server's own answer."""


def judge(raised: Raised) -> tuple[OutcomeKind, Failure]:
    """The outcome's kind and the failure of a function that raised.

    A ``status`` is an answer of the other side, so it makes the failure definite, whatever the class; gRPC's numbers
    (on a ``grpc.RpcError``) are read by their own table. The reason of all that is definite is ``raised``,
    so that an exception of a function is never a failure of its upstream; ``status`` and ``retry_after_s`` stay.
    """
    types = tuple(raised.mro[:TYPES_MAX]) or (raised.type,)
    status = raised.status
    if status is not None and "grpc.RpcError" in types:
        reason, status = GRPC_STATUSES.get(status, Reason.RAISED), None  # not an HTTP status: nobody may read it as one
    elif status is not None:
        reason = Reason.RAISED
    else:
        reason = next((EXCEPTIONS[name] for name in types if name in EXCEPTIONS), Reason.RAISED)
    return KIND_OF_REASON[reason], Failure(reason, _text(raised), status, raised.retry_after_s, types)


def _text(raised: Raised) -> str:
    name = raised.type.rpartition(".")[2]
    text = f"{name}: {raised.text}" if raised.text else name
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "…"
