"""``outrider import``: whatever a service says of itself, the policy that is written is one that ``check`` accepts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.cli import main
from outrider.errors import Misconfigured
from outrider.importing import openapi
from outrider.importing.document import MAX_YAML_BYTES, read
from outrider.importing.tools import Imported, Tool, is_upstream, safe_upstream
from outrider.importing.written import Written, written
from outrider.policy.load import check, check_texts
from outrider.suggest.guesses import Guess
from outrider.testing.process import ManagedProcess
from outrider.upstreams.template import render
from tests.support.child_kit import command

PETS = """
openapi: 3.0.3
info: {title: Pet Store, version: 1.0.0}
servers:
  - url: "https://{host}/v1/"
    variables: {host: {default: pets.example}}
security: [{key: []}]
paths:
  /pets:
    get:
      operationId: listPets
      summary: All pets
      parameters:
        - {name: limit, in: query, schema: {type: integer}}
        - {name: "filter[tag]", in: query, schema: {type: string}}
        - {name: X-Tenant, in: header, required: true, schema: {type: string}}
        - {name: X-Trace, in: header, schema: {type: string}}
      responses: {200: {description: ok}}
    post:
      operationId: createPet
      parameters: [{name: Idempotency-Key, in: header}]
      requestBody: {content: {application/json: {schema: {$ref: "#/components/schemas/Pet"}}}}
  "/pets/{id}":
    parameters: [{$ref: "#/components/parameters/Id"}]
    get: {summary: One, responses: {default: {description: x}}}
    put:
      operationId: "put pet!"
      requestBody: {content: {application/json: {schema: {$ref: "#/components/schemas/Pet"}}}}
    options: {}
  /tags:
    put: {operationId: setTags, requestBody: {content: {application/json: {schema: {type: array}}}}}
  /upload:
    post: {operationId: upload, requestBody: {content: {multipart/form-data: {}}}}
  /cache/reset:
    get: {operationId: resetCache}
components:
  parameters:
    Id: {name: id, in: path, required: true}
  schemas:
    Pet: {allOf: [{$ref: "#/components/schemas/Named"}, {properties: {id: {type: string}}}]}
    Named: {type: object, properties: {name: {type: string}}}
  securitySchemes:
    cookie: {type: apiKey, in: cookie, name: sid}
    key: {type: apiKey, in: header, name: X-Api-Key}
"""


def from_openapi(text: str | bytes, name: str = "", url: str = "") -> tuple[Imported, Written]:
    raw = text if isinstance(text, bytes) else text.encode()
    found = openapi.imported(read(raw, "file"), name, url)
    return found, written(found, "file", Path())


def errors(of: Written) -> list[str]:
    return [str(fault) for fault in of.faults if fault.severity == "error"]


def test_operations_become_tools_with_templates_and_guessed_effects() -> None:
    """Path, query and headers as templates; the effect by the method, the name, and the key that is taken."""
    found, text = from_openapi(PETS)
    assert errors(text) == [] and found.name == "pet-store" and text.needs == ("PET_STORE_KEY",)
    policy, _ = check_texts({"a.yaml": text.text.encode()}, Path(), env={"PET_STORE_KEY": "sample"})
    assert policy is not None
    http = policy.upstreams["pet-store"].http
    assert http is not None and http.url == "https://pets.example/v1" and str(http.headers["X-Api-Key"]).startswith("«")
    plans = {name: policy.plan(f"pet-store.{name}") for name in (tool.name for tool in found.tools)}
    assert {name: plan.effect.value for name, plan in plans.items() if plan} == {
        "listPets": "read",
        "createPet": "keyed",
        "get_pets_id": "read",
        "put_pet": "idempotent",
        "setTags": "idempotent",
        "resetCache": "write",
    }
    sent = {
        "listPets": {"limit": 5, "filter_tag": "a b", "X-Tenant": "t"},
        "get_pets_id": {"id": "a/b"},
        "put_pet": {"path_id": "7", "id": "8", "name": "Rex"},
        "setTags": {"body": [1, 2]},
    }
    requests = {name: render(plan.http, name, args) for name, args in sent.items() if (plan := plans[name])}
    assert requests["listPets"].path == "/pets?limit=5&filter%5Btag%5D=a+b"
    assert requests["listPets"].headers == {"X-Tenant": "t"}
    assert requests["get_pets_id"].path == "/pets/a%2Fb"
    assert requests["put_pet"].path == "/pets/7"
    assert json.loads(requests["put_pet"].body or b"") == {"id": "8", "name": "Rex"}
    assert json.loads(requests["setTags"].body or b"") == [1, 2]


def test_what_cannot_be_taken_over_is_told() -> None:
    """Nobody believes it to be governed."""
    text = from_openapi(PETS)[1].text
    assert "left out: POST /upload: its body is multipart/form-data" in text
    assert "'cookie' (apiKey cookie) cannot be said by a header" not in text  # another one holds for the service
    assert "REVIEW: sent without the header X-Trace, which is optional" in text
    assert "left out: 1 operations with a method that a policy does not know" in text


def test_reads_are_allowed_and_changes_wait_for_a_person() -> None:
    """Least privilege to start from."""
    rules = yaml.safe_load(from_openapi(PETS)[1].text)["rules"]
    assert [(rule["then"], len(rule["tools"])) for rule in rules] == [("allow", 2), ("deny", 4)]


def test_the_same_document_gives_the_same_policy_in_json_and_in_yaml() -> None:
    """Deterministic, and whatever spelling."""
    data = yaml.safe_load(PETS)
    as_json = json.dumps(data)
    assert from_openapi(PETS)[1].text == from_openapi(as_json)[1].text == from_openapi(PETS)[1].text


@pytest.mark.parametrize(
    ("scheme", "header"),
    [
        ({"type": "http", "scheme": "bearer"}, {"Authorization": "Bearer {env:UP_TOKEN}"}),
        ({"type": "http", "scheme": "Basic"}, {"Authorization": "Basic {env:UP_BASIC}"}),
        ({"type": "oauth2", "flows": {}}, {"Authorization": "Bearer {env:UP_TOKEN}"}),
        ({"type": "apiKey", "in": "header", "name": "X-Key"}, {"X-Key": "{env:UP_KEY}"}),
        ({"type": "apiKey", "in": "query", "name": "key"}, {}),
        ({"type": "apiKey", "in": "header", "name": "Content-Length"}, {}),
        ({"$ref": "#/components/securitySchemes/s"}, {}),
    ],
)
def test_security_schemes_become_headers_with_a_placeholder(scheme: dict[str, Any], header: dict[str, str]) -> None:
    """Never a secret in the file."""
    document = {"openapi": "3.1.0", "paths": {}, "components": {"securitySchemes": {"s": scheme}}}
    found, text = from_openapi(json.dumps(document), "up", "https://x.example")
    assert found.headers == header and errors(text) == []
    assert ("cannot be said by a header" in text.text) is not bool(header)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("swagger: '2.0'", "no OpenAPI 3 document"),
        ("openapi: 3.0.0\nservers: [{url: /v1}]", "--url"),
        ("openapi: 3.0.0", "--url"),
        ("- 1", "no OpenAPI document"),
        ("a: [", "neither JSON nor YAML"),
        ("{", "neither JSON nor YAML"),
        (b"\xff\xfe", "neither JSON nor YAML"),
        ("[" * 5000, "neither JSON nor YAML"),
        ("{" + '"a":{' * 100_000, "neither JSON nor YAML"),
        ("", "no OpenAPI document"),
        ("? {a: b}\n: c", "neither JSON nor YAML"),
        (b"a: " + b"x" * MAX_YAML_BYTES, "at most"),
    ],
)
def test_what_is_no_document_is_a_sentence(text: str | bytes, told: str) -> None:
    """However broken, deep or large."""
    with pytest.raises(Misconfigured, match=told):
        from_openapi(text)


def test_references_in_circles_and_out_of_the_file_are_passed_over() -> None:
    """And the latter are named."""
    schema = {"$ref": "#/components/schemas/A"}
    document = {
        "openapi": "3.0.0",
        "paths": {
            "/a": {"$ref": "#/paths/~1a"},
            "/b": {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}}},
            "/c": {"get": {"parameters": [{"$ref": "other.yaml#/x"}]}},
        },
        "components": {"schemas": {"A": {"allOf": [schema] * 50}}},
    }
    found, text = from_openapi(json.dumps(document), url="https://x.example")
    assert [tool.name for tool in found.tools] == ["post_b", "get_c"]
    assert errors(text) == [] and "other.yaml#/x" in text.text


def test_anchors_that_multiply_do_not() -> None:
    """Nothing here is written out."""
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30))
    text = f"openapi: 3.0.0\na0: &a0 x\n{levels}\npaths: {{/x: {{get: {{parameters: *a29}}}}}}\n"
    assert [tool.name for tool in from_openapi(text, url="https://x.example")[0].tools] == ["get_x"]


def test_a_huge_document_is_cut_and_says_so() -> None:
    """What is written is still accepted."""
    paths = {f"/p{n}/{{id}}": {"get": {"summary": "x" * 500}, "post": {}} for n in range(3000)}
    found, text = from_openapi(json.dumps({"openapi": "3.0.0", "paths": paths}), url="https://x.example")
    assert len(found.tools) == openapi.MAX_TOOLS and errors(text) == []
    assert "left out: 5000 operations, because there are too many" in text.text
    wide = [{"name": f"{n}" + "x" * 180, "in": "query"} for n in range(200)]
    paths = {f"/p{n}": {"get": {"parameters": wide}} for n in range(500)}
    found, text = from_openapi(json.dumps({"openapi": "3.0.0", "paths": paths}), url="https://x.example")
    assert errors(text) == [] and found.left_out


HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "__proto__",
            "a.b",
            "a/b",
            "{args.x}",
            "{env:HOME}",
            "*",
            "null",
            "on",
            "1:30",
            "# x",
            "- x",
            "x: y",
            "\n",
            "\x1b[2J",
            "args",
            "id",
            "body",
            "X-Key",
            "Content-Length",
            "Authorization",
            "password",
            "local",
            "..",
            "\u2028",
            "'\"\\",
            "é" * 200,
        ]
    ),
)
PARAMETERS = st.lists(
    st.fixed_dictionaries(
        {"name": HOSTILE, "in": st.sampled_from(["path", "query", "header", "cookie", "x"])},
        optional={"required": st.just(True)},
    ),
    max_size=4,
)
PROPERTIES = st.dictionaries(HOSTILE, st.just({}), max_size=3)
SCHEME = st.fixed_dictionaries({"type": st.just("apiKey"), "in": st.just("header"), "name": HOSTILE})
BODY = st.dictionaries(
    st.sampled_from(["application/json", "text/plain", "application/x+json; a=b"]),
    st.fixed_dictionaries({"schema": st.fixed_dictionaries({"properties": PROPERTIES})}),
    max_size=2,
)
OPERATION = st.fixed_dictionaries(
    {},
    optional={
        "operationId": HOSTILE,
        "summary": HOSTILE,
        "parameters": PARAMETERS,
        "requestBody": st.fixed_dictionaries({"content": BODY}),
        "deprecated": st.just(True),
    },
)
PATH = st.lists(HOSTILE.flatmap(lambda text: st.sampled_from([text, "{" + text + "}"])), max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
DOCUMENT = st.fixed_dictionaries(
    {
        "openapi": st.just("3.0.0"),
        "info": st.fixed_dictionaries({"title": HOSTILE}),
        "paths": st.dictionaries(
            PATH, st.dictionaries(st.sampled_from(openapi.METHODS), OPERATION, max_size=3), max_size=4
        ),
        "components": st.fixed_dictionaries({"securitySchemes": st.dictionaries(HOSTILE, SCHEME, max_size=2)}),
    }
)


@settings(max_examples=300)
@given(DOCUMENT)
def test_no_hostile_name_makes_a_policy_that_is_refused(document: dict[str, Any]) -> None:
    """Whatever stands in it, ``check`` finds no error; and no name of the document chooses what is allowed."""
    found, text = from_openapi(json.dumps(document), url="https://x.example")
    assert errors(text) == []
    said = yaml.safe_load(text.text)
    assert list(said["upstreams"]) == [found.name]
    assert [entry["match"] for entry in said.get("tools", [])] == [f"{found.name}.{tool.name}" for tool in found.tools]
    allowed = {tool for rule in said["rules"] if rule["then"] == "allow" for tool in rule["tools"]}
    assert allowed == {f"{found.name}.{tool.name}" for tool in found.tools if tool.effect.value == "read"}


@given(st.text())
def test_every_title_gives_a_name_that_an_upstream_may_have(title: str) -> None:
    """``local`` is taken."""
    assert is_upstream(safe_upstream(title))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,60}", fullmatch=True), HOSTILE), max_size=5))
def test_no_tool_of_an_mcp_server_makes_a_policy_that_is_refused(tools: list[tuple[str, str]]) -> None:
    """Descriptions are comments, and stay on their line."""
    named = {name: Tool(name, Guess("read", "x"), summary=summary) for name, summary in tools}
    found = Imported("up", mcp={"url": "https://x.example/mcp"}, tools=list(named.values()))
    text = written(found, "https://x.example/mcp", Path())
    assert errors(text) == []
    assert len(yaml.safe_load(text.text).get("tools", [])) == len(named)


# ── the command ──


def test_a_document_is_imported_into_a_policys_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside other files of the policy, never over one."""
    file, out = tmp_path / "pets.yaml", tmp_path / "policy"
    file.write_text(PETS)
    assert main(["import", "openapi", str(file), "--out", str(out)]) == 0
    told = capsys.readouterr().err
    assert "PET_STORE_KEY" in told and "outrider check" in told
    assert main(["import", "openapi", str(file), "--out", str(out)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["import", "openapi", str(file), "--name", "zoo", "--out", str(out)]) == 0
    policy, _ = check(out, env={"PET_STORE_KEY": "sample", "ZOO_KEY": "sample"})
    assert policy is not None and {"pet-store", "zoo"} <= policy.upstreams.keys()
    assert main(["import", "openapi", str(file), "--name", "local"]) == 2


def test_a_servers_tools_are_asked_of_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command: started, asked, ended."""
    journal, out = tmp_path / "journal", tmp_path / "not" / "yet"
    assert main(["import", "mcp", "--name", "notes", "--out", str(out), *command(journal)]) == 0
    policy, faults = check(out)
    assert policy is not None and [fault for fault in faults if fault.severity == "error"] == []
    assert policy.upstreams["notes"].mcp is not None
    plan = policy.plan("notes.get_note")
    assert plan is not None and plan.effect.value == "read"
    assert "outrider check" in capsys.readouterr().err


def test_a_server_behind_a_url_is_asked_with_the_headers_that_the_policy_will_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture of the conformance suite, over streamable HTTP; the secret is not in the file."""
    fixture = ManagedProcess([sys.executable, "-m", "tests.conformance.mcp.fixture"], "fixture ready ")
    fixture.env["PYTHONPATH"] = str(Path(__file__).parents[2])
    monkeypatch.setenv("FIX_TOKEN", "sample-token-of-a-test")
    url = f"http://{fixture.start().partition('listen=')[2].strip()}/mcp"
    try:
        header = ["--header", "Authorization=Bearer {env:FIX_TOKEN}"]
        assert main(["import", "mcp", "--name", "fix", *header, "--out", str(tmp_path), url]) == 0
    finally:
        fixture.kill9()
    text = (tmp_path / "fix.yaml").read_text()
    policy, _ = check(tmp_path)
    assert policy is not None and "sample-token" not in text and "{env:FIX_TOKEN}" in text
    mcp = policy.upstreams["fix"].mcp
    assert mcp is not None and mcp.http is not None and mcp.http.url == url
    assert text.count("- match: fix.") > 10


def test_annotations_are_a_reason_and_names_that_write_are_a_better_one(tmp_path: Path) -> None:
    """The reference server, over its own protocol."""
    server = tmp_path / "server.py"
    server.write_text(
        "from mcp.server.fastmcp import FastMCP\nfrom mcp.types import ToolAnnotations as A\ns = FastMCP('hints')\n"
        "reads = A(readOnlyHint=True)\n"
        "for name, hints in [('weather', reads), ('delete_all', reads), ('sync', A(idempotentHint=True))]:\n"
        "    s.add_tool(lambda: 1, name=name, annotations=hints)\ns.run('stdio')\n"
    )
    words = [sys.executable, "-m", "outrider", "import", "mcp", sys.executable, str(server)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    said = yaml.safe_load(done.stdout)
    effects = {entry["match"]: entry["effect"] for entry in said["tools"]}
    assert effects == {"hints.weather": "read", "hints.delete_all": "write", "hints.sync": "idempotent"}
    assert "its own annotations say read" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["http://127.0.0.1:9/mcp"], 1, "does not tell its tools"),
        (["http://127.0.0.1:9/mcp", "--name"], 2, "write options before it"),
        (["--header", "x", "http://127.0.0.1:9/mcp"], 2, "NAME=VALUE"),
        (["--header", "Authorization=Bearer abcdefghijklmnop", "http://127.0.0.1:9/mcp"], 1, "secret-looking"),
        (["--env", "A=b", "http://127.0.0.1:9/mcp"], 1, "says nothing beside url"),
        (["/nowhere/at-all"], 1, "No such file or directory"),
        ([sys.executable, "-c", "raise SystemExit('out of ideas')"], 1, "out of ideas"),
        (["--timeout", "1", sys.executable, "-c", "input(); input()"], 1, "within 1 s"),
    ],
)
def test_a_server_that_does_not_answer_is_a_sentence(
    words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What, and why as far as it said."""
    assert main(["import", "mcp", *words]) == code
    assert told in capsys.readouterr().err
