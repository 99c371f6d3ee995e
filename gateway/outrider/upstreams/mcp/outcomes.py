"""What an MCP server's answer, or its failure to give one, means for an attempt."""

from __future__ import annotations

from typing import Any

from outrider.calls import Attempt, Failure, Outcome, OutcomeKind, Reason
from outrider.mcp_wire import NO_WORD, Message, RpcError
from outrider.upstreams.mcp.transport import McpFailure
from outrider.upstreams.statuses import BETWEEN_GATEWAYS, NEVER_PROCESSED

PASSING = NEVER_PROCESSED | {408}
"""Statuses of 4xx that say nothing of what is asked, only of the moment."""


def of_answer(answer: Message, *, whole: bool, size: int | None = None) -> Outcome:
    """``whole``: the caller speaks MCP and gets the result object untouched; else what a tool's caller wants of it.

    A result with ``isError`` is an answer: the tool said no, the server works. Only ``retryOn: [raised]`` repeats it.
    """
    if "error" in answer:
        return _of_error(RpcError.of(answer["error"]))
    result = answer["result"]
    if not isinstance(result, dict):
        return _protocol("a result that is no object")
    if result.get("resultType") == "input_required":
        return Outcome(OutcomeKind.SUSPENDED, value=result, result_bytes=size)
    if result.get("isError") is True:
        failure = Failure(Reason.RAISED, _text(result)[:2000])
        return Outcome(OutcomeKind.DEFINITE, value=result if whole else None, failure=failure, result_bytes=size)
    return Outcome(OutcomeKind.OK, value=result if whole else plain(result), result_bytes=size)


def plain(result: Message) -> Any:
    """The structured content where there is some, else the one text, else all content blocks; of anything that is no
    tool's result, the result."""
    if "structuredContent" in result:
        return result["structuredContent"]
    content = result.get("content")
    if not isinstance(content, list):
        return result
    if len(content) == 1 and isinstance(content[0], dict) and content[0].get("type") == "text":
        return content[0].get("text")
    return content


def of_failure(failure: McpFailure, attempt: Attempt) -> Outcome:
    """No answer. Before a byte left nothing ran; a status is the server's word; everything else may have run."""
    if not attempt.sent:
        return never_sent(failure)
    if failure.status is not None:
        told = Failure(Reason.STATUS, failure.text, failure.status, failure.retry_after_s)
        if failure.status in NEVER_PROCESSED or failure.session_lost:
            return Outcome(OutcomeKind.NOT_EXECUTED, failure=told)
        kind = OutcomeKind.UNKNOWN if failure.status in BETWEEN_GATEWAYS else OutcomeKind.DEFINITE
        return Outcome(kind, failure=told)
    reason = Reason.PROTOCOL if failure.garbage else Reason.RESET
    return Outcome(OutcomeKind.UNKNOWN, failure=Failure(reason, failure.text))


def never_sent(failure: McpFailure) -> Outcome:
    """The call itself never left: there was no connection, or the handshake failed. A 4xx is the server's judgement, on
    our credential for one, and stays what it is however often it is asked for."""
    reason = Reason.CONNECT if failure.status is None else Reason.STATUS
    told = Failure(reason, failure.text, failure.status, failure.retry_after_s)
    judged = failure.status is not None and 400 <= failure.status < 500 and failure.status not in PASSING
    return Outcome(
        OutcomeKind.DEFINITE if judged and not failure.session_lost else OutcomeKind.NOT_EXECUTED, failure=told
    )


def _of_error(error: RpcError) -> Outcome:
    """The server refused the request or failed in it, and says so: it was judged. The code travels in the text. A
    server that is a gateway itself may not know what became of it."""
    text = f"{error.message} (JSON-RPC error {error.code})"
    if error.code in NO_WORD:
        return Outcome(OutcomeKind.UNKNOWN, value=error.as_dict(), failure=Failure(Reason.RESET, text[:2000]))
    return Outcome(OutcomeKind.DEFINITE, value=error.as_dict(), failure=Failure(Reason.RAISED, text[:2000]))


def _protocol(text: str) -> Outcome:
    return Outcome(OutcomeKind.UNKNOWN, failure=Failure(Reason.PROTOCOL, text))


def _text(result: Message) -> str:
    content = result.get("content")
    blocks = content if isinstance(content, list) else []
    texts = [str(block.get("text")) for block in blocks if isinstance(block, dict) and block.get("type") == "text"]
    return "\n".join(texts) or "the tool answered with an error"
