"""What the fixture server offers: the tools, resources and prompts that the official conformance suite asks for."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
SECRET = b"of the fixture alone"
INVALID_PARAMS, MISSING_CAPABILITY, METHOD_NOT_FOUND = -32602, -32021, -32601


class Refused(Exception):
    """A JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({} if data is None else {"data": data})


@dataclass
class Context:
    """One request: what its client can do, and how it is spoken to. ``ask`` is None in the modern era."""

    modern: bool
    params: Message
    capabilities: Mapping[str, Any]
    tell: Callable[[Message], None]
    ask: Callable[[str, Message], Awaitable[Message]] | None
    changed: Callable[[str], None]
    meta: Message = field(default_factory=dict)

    @property
    def arguments(self) -> Message:
        return self.params.get("arguments") or {}

    def progress(self, progress: float, total: float) -> None:
        token = self.meta.get("progressToken")
        if token is not None:
            params = {"progressToken": token, "progress": progress, "total": total}
            self.tell({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})

    def log(self, text: str) -> None:
        if not self.modern or "io.modelcontextprotocol/logLevel" in self.meta:
            params = {"level": "info", "logger": "fixture", "data": text}
            self.tell({"jsonrpc": "2.0", "method": "notifications/message", "params": params})

    async def asked(self, method: str, params: Message, capability: str) -> Message:
        if self.ask is None or capability not in self.capabilities:
            raise Refused(INVALID_PARAMS, f"this client cannot be asked for {method}")
        return await self.ask(method, params)


Run = Callable[[Context], Awaitable[Message]]


def text(words: str) -> Message:
    return {"content": [{"type": "text", "text": words}]}


TOOLS: dict[str, tuple[Message, Run]] = {}


def tool(name: str, description: str, schema: Message | None = None, **more: Any) -> Callable[[Run], Run]:
    def put(run: Run) -> Run:
        shape = schema or {"type": "object", "properties": {}}
        TOOLS[name] = ({"name": name, "description": description, "inputSchema": shape, **more}, run)
        return run

    return put


# ── content ──────────────────────────────────────────────────────────────────────────────────────────────────────

IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}


@tool("test_simple_text", "Answers with a text")
async def _simple(_context: Context) -> Message:
    return text("This is a simple text response for testing.")


@tool("test_image_content", "Answers with an image")
async def _image(_context: Context) -> Message:
    return {"content": [IMAGE]}


@tool("test_audio_content", "Answers with a sound")
async def _audio(_context: Context) -> Message:
    return {"content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]}


@tool("test_embedded_resource", "Answers with a resource")
async def _embedded(_context: Context) -> Message:
    words = "This is an embedded resource content."
    resource = {"uri": "test://embedded-resource", "mimeType": "text/plain", "text": words}
    return {"content": [{"type": "resource", "resource": resource}]}


@tool("test_multiple_content_types", "Answers with one of each")
async def _mixed(_context: Context) -> Message:
    words = '{"test":"data","value":123}'
    resource = {"uri": "test://mixed-content-resource", "mimeType": "application/json", "text": words}
    first = {"type": "text", "text": "Multiple content types test:"}
    return {"content": [first, IMAGE, {"type": "resource", "resource": resource}]}


@tool("test_error_handling", "Always fails")
async def _error(_context: Context) -> Message:
    return {**text("This tool intentionally returns an error for testing"), "isError": True}


@tool(
    "test_structured",
    "Answers with structure",
    outputSchema={"type": "object", "properties": {"n": {"type": "integer"}}},
)
async def _structured(_context: Context) -> Message:
    return {**text('{"n": 7}'), "structuredContent": {"n": 7}}


# ── while it runs ────────────────────────────────────────────────────────────────────────────────────────────────


@tool("test_tool_with_logging", "Logs three times")
async def _logging(context: Context) -> Message:
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        context.log(words)
        await asyncio.sleep(0.05)
    return text("done")


@tool("test_logging_tool", "Logs where that is wanted")
async def _logging_once(context: Context) -> Message:
    context.log("at work")
    return text("done")


@tool("test_tool_with_progress", "Tells how far it is")
async def _progress(context: Context) -> Message:
    for done in (0, 50, 100):
        context.progress(done, 100)
        await asyncio.sleep(0.05)
    return text("done")


@tool("test_sampling", "Asks the client's model", {"type": "object", "properties": {"prompt": {"type": "string"}}})
async def _sampling(context: Context) -> Message:
    words = {"type": "text", "text": context.arguments.get("prompt", "")}
    params = {"messages": [{"role": "user", "content": words}], "maxTokens": 100}
    answer = await context.asked("sampling/createMessage", params, "sampling")
    content = answer.get("content") or {}
    return text(f"LLM response: {content.get('text', '')}")


ELICITED = {
    "type": "object",
    "properties": {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    },
    "required": ["username", "email"],
}


@tool("test_elicitation", "Asks the user", {"type": "object", "properties": {"message": {"type": "string"}}})
async def _elicitation(context: Context) -> Message:
    params = {"message": context.arguments.get("message", ""), "requestedSchema": ELICITED}
    answer = await context.asked("elicitation/create", params, "elicitation")
    return text(f"User response: action={answer.get('action')}, content={answer.get('content')}")


async def _elicits(context: Context, properties: Message, required: list[str]) -> Message:
    schema = {"type": "object", "properties": properties, "required": required}
    params = {"message": "Please answer", "requestedSchema": schema}
    answer = await context.asked("elicitation/create", params, "elicitation")
    return text(f"Elicitation completed: action={answer.get('action')}, content={answer.get('content')}")


@tool("test_elicitation_sep1034_defaults", "Asks with defaults")
async def _defaults(context: Context) -> Message:
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await _elicits(context, properties, [])


def _titled(prefix: str, words: tuple[str, ...]) -> list[Message]:
    return [{"const": f"value{n}", "title": f"{word} {prefix}"} for n, word in enumerate(words, 1)]


@tool("test_elicitation_sep1330_enums", "Asks for choices")
async def _enums(context: Context) -> Message:
    options, words = ["option1", "option2", "option3"], ("First", "Second", "Third")
    properties = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": _titled("Option", words)},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": _titled("Choice", words)}},
    }
    return await _elicits(context, properties, [])


# ── the modern era ───────────────────────────────────────────────────────────────────────────────────────────────


def _input(requests: Message, state: str | None = None) -> Message:
    result: Message = {"resultType": "input_required", "inputRequests": requests}
    return result if state is None else {**result, "requestState": state}


def _elicit(message: str, name: str, kind: str = "string") -> Message:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def _sample(words: str, most: int = 100) -> Message:
    messages = [{"role": "user", "content": {"type": "text", "text": words}}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": most}}


ROOTS: Message = {"method": "roots/list", "params": {}}


def _answers(context: Context, *names: str) -> Message | None:
    """The input responses, where each of these is one; None where they are to be asked for (again)."""
    if "inputResponses" not in context.params:
        return None
    given = context.params["inputResponses"]
    if not isinstance(given, dict):
        raise Refused(INVALID_PARAMS, "'inputResponses' must be an object")
    return given if all(isinstance(given.get(name), dict) for name in names) else None


def _sealed(words: str) -> str:
    return f"{words}.{hmac.new(SECRET, words.encode(), hashlib.sha256).hexdigest()}"


def _opened(context: Context) -> str:
    """Raises Refused for a state that is not ours."""
    state = context.params.get("requestState")
    words, _, seal = str(state).rpartition(".")
    if not hmac.compare_digest(_sealed(words), f"{words}.{seal}"):
        raise Refused(INVALID_PARAMS, "'requestState' is not what was given")
    return words


@tool("test_input_required_result_elicitation", "Needs a name")
async def _mrtr_elicitation(context: Context) -> Message:
    answers = _answers(context, "user_name")
    if answers is None:
        return _input({"user_name": _elicit("What is your name?", "name")})
    return text(f"Hello, {(answers['user_name'].get('content') or {}).get('name')}!")


@tool("test_input_required_result_sampling", "Needs a model")
async def _mrtr_sampling(context: Context) -> Message:
    answers = _answers(context, "capital_question")
    if answers is None:
        return _input({"capital_question": _sample("What is the capital of France?")})
    return text(str((answers["capital_question"].get("content") or {}).get("text")))


@tool("test_input_required_result_list_roots", "Needs the roots")
async def _mrtr_roots(context: Context) -> Message:
    answers = _answers(context, "client_roots")
    if answers is None:
        return _input({"client_roots": ROOTS})
    return text(f"roots: {[root.get('uri') for root in answers['client_roots'].get('roots', [])]}")


@tool("test_input_required_result_request_state", "Needs a confirmation")
async def _mrtr_state(context: Context) -> Message:
    if _answers(context, "confirm") is None:
        return _input({"confirm": _elicit("Please confirm", "ok", "boolean")}, _sealed("asked"))
    _opened(context)
    return text("state-ok")


@tool("test_input_required_result_tampered_state", "Needs its own state back")
async def _mrtr_tampered(context: Context) -> Message:
    return await _mrtr_state(context)


@tool("test_input_required_result_multiple_inputs", "Needs three answers")
async def _mrtr_many(context: Context) -> Message:
    requests = {
        "user_name": _elicit("What is your name?", "name"),
        "greeting": _sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    if _answers(context, *requests) is None:
        return _input(requests, _sealed("three"))
    _opened(context)
    return text("all three came")


@tool("test_input_required_result_multi_round", "Needs two rounds")
async def _mrtr_rounds(context: Context) -> Message:
    if context.params.get("requestState") is None:
        return _input({"step1": _elicit("Step 1: What is your name?", "name")}, _sealed("round 1"))
    if _opened(context) == "round 1":
        return _input({"step2": _elicit("Step 2: What is your favorite color?", "color")}, _sealed("round 2"))
    return text("both came")


@tool("test_input_required_result_capabilities", "Asks for what the client can")
async def _mrtr_capabilities(context: Context) -> Message:
    offers = {
        "sampling": ("a", _sample("Anything")),
        "elicitation": ("b", _elicit("Anything?", "any")),
        "roots": ("c", ROOTS),
    }
    return _input({offers[name][0]: offers[name][1] for name in offers if name in context.capabilities})


@tool("test_missing_capability", "Needs sampling")
async def _missing(context: Context) -> Message:
    if "sampling" not in context.capabilities:
        raise Refused(MISSING_CAPABILITY, "sampling is needed", {"requiredCapabilities": {"sampling": {}}})
    return text("done")


@tool("test_streaming_elicitation", "Needs an answer, and tells how far it is")
async def _streaming(context: Context) -> Message:
    context.progress(1, 2)
    return _input({"any": _elicit("Anything?", "any")})


@tool("test_trigger_tool_change", "Changes the list of tools")
async def _change_tools(context: Context) -> Message:
    context.changed("tools")
    return text("changed")


@tool("test_trigger_prompt_change", "Changes the list of prompts")
async def _change_prompts(context: Context) -> Message:
    context.changed("prompts")
    return text("changed")


@tool(
    "test_x_mcp_header",
    "Has an argument that travels in a header",
    {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "note": {"type": "string"}},
        "required": ["region"],
    },
)
async def _header(context: Context) -> Message:
    return text(f"region {context.arguments.get('region')}")


@tool(
    "json_schema_2020_12_tool",
    "Tool with JSON Schema 2020-12 features",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def _schema(_context: Context) -> Message:
    return text("done")


# ── resources ────────────────────────────────────────────────────────────────────────────────────────────────────

WATCHED = "test://watched-resource"
RESOURCES: list[Message] = [
    {"uri": "test://static-text", "name": "static text", "description": "A text", "mimeType": "text/plain"},
    {"uri": "test://static-binary", "name": "static binary", "description": "An image", "mimeType": "image/png"},
    {"uri": WATCHED, "name": "watched", "description": "May be watched", "mimeType": "text/plain"},
]
TEMPLATE = {
    "uriTemplate": "test://template/{id}/data",
    "name": "template",
    "description": "By number",
    "mimeType": "application/json",
}


def read_resource(uri: str) -> Message:
    """Raises Refused."""
    by_number = re.fullmatch(r"test://template/([^/]+)/data", uri)
    if by_number:
        number = by_number[1]
        words = f'{{"id":"{number}","templateTest":true,"data":"Data for ID: {number}"}}'
        return {"uri": uri, "mimeType": "application/json", "text": words}
    if uri == "test://static-text":
        return {"uri": uri, "mimeType": "text/plain", "text": "This is the content of the static text resource."}
    if uri == "test://static-binary":
        return {"uri": uri, "mimeType": "image/png", "blob": PNG}
    if uri == WATCHED:
        return {"uri": uri, "mimeType": "text/plain", "text": "as ever"}
    raise Refused(INVALID_PARAMS, "Resource not found", {"uri": uri})


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _argument(name: str, description: str) -> Message:
    return {"name": name, "description": description, "required": True}


PROMPTS: list[Message] = [
    {"name": "test_simple_prompt", "description": "Simple"},
    {
        "name": "test_prompt_with_arguments",
        "description": "With arguments",
        "arguments": [_argument("arg1", "First test argument"), _argument("arg2", "Second test argument")],
    },
    {
        "name": "test_prompt_with_embedded_resource",
        "description": "With a resource",
        "arguments": [_argument("resourceUri", "URI of the resource to embed")],
    },
    {"name": "test_prompt_with_image", "description": "With an image"},
    {"name": "test_input_required_result_prompt", "description": "Needs an answer"},
]


def _user(content: Message) -> Message:
    return {"role": "user", "content": content}


def get_prompt(context: Context) -> Message:
    """Raises Refused."""
    name, given = context.params.get("name"), context.arguments
    if name == "test_simple_prompt":
        return {"messages": [_user({"type": "text", "text": "This is a simple prompt for testing."})]}
    if name == "test_prompt_with_arguments":
        words = f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'"
        return {"messages": [_user({"type": "text", "text": words})]}
    if name == "test_prompt_with_embedded_resource":
        words = "Embedded resource content for testing."
        resource = {"uri": given.get("resourceUri"), "mimeType": "text/plain", "text": words}
        after = {"type": "text", "text": "Please process the embedded resource above."}
        return {"messages": [_user({"type": "resource", "resource": resource}), _user(after)]}
    if name == "test_prompt_with_image":
        return {"messages": [_user(IMAGE), _user({"type": "text", "text": "Please analyze the image above."})]}
    if name == "test_input_required_result_prompt":
        answers = _answers(context, "user_context")
        if answers is None:
            return _input({"user_context": _elicit("What context should the prompt use?", "context")})
        words = str((answers["user_context"].get("content") or {}).get("context"))
        return {"messages": [_user({"type": "text", "text": words})]}
    raise Refused(INVALID_PARAMS, f"unknown prompt: {name}")
