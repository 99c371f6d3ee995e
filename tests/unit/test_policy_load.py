"""Loading: the files of a folder, all faults at once, secrets that are never shown."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import asdict
from pathlib import Path

import jsonschema
import pytest

from outrider.errors import Fault, Misconfigured
from outrider.policy.faults import CODES
from outrider.policy.load import MAX_FAULTS, Policy, check, load
from outrider.policy.plans import Secret
from outrider.policy.references import looks_secret
from outrider.policy.schema import json_schema

HEAD = "apiVersion: outrider.dev/v1alpha1\nkind: Policy\n"
ALLOW = 'rules:\n  - {name: all, tools: ["*"], then: allow}\n'
SECRET = "correct-horse-battery-staple"


def write(folder: Path, text: str, name: str = "policy.yaml") -> Path:
    (folder / name).write_text(HEAD + text, encoding="utf-8")
    return folder


def codes(faults: tuple[Fault, ...]) -> list[str]:
    return [fault.code for fault in faults]


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_is_not_there_or_holds_no_policy_is_an_error(tmp_path: Path) -> None:
    """Never an empty policy by accident."""
    assert codes(check(tmp_path / "nowhere")[1]) == ["E43"]
    assert codes(check(tmp_path)[1]) == ["E43"]
    write(tmp_path, ALLOW, "policy.test.yaml")
    write(tmp_path, ALLOW, ".hidden.yaml")
    write(tmp_path, ALLOW, "policy.yaml.bak")
    (tmp_path / "folder.yaml").mkdir()
    assert codes(check(tmp_path)[1]) == ["E43"]
    with pytest.raises(Misconfigured, match="outrider init"):
        load(tmp_path)


def test_all_files_are_one_policy_whatever_their_names(tmp_path: Path) -> None:
    """`.yaml` and `.yml`, in any order; links are followed, as a mounted ConfigMap needs."""
    real = tmp_path / "..data"
    real.mkdir()
    write(real, "metadata: {name: linked}\n" + ALLOW, "rules.yaml")
    (tmp_path / "rules.yaml").symlink_to(Path("..data") / "rules.yaml")
    write(tmp_path, 'upstreams:\n  docs: {http: {url: "http://127.0.0.1:1"}}\n', "z.yml")
    policy = load(tmp_path)
    assert (policy.name, set(policy.upstreams), sorted(policy.texts)) == (
        "linked", {"docs", "local"}, ["rules.yaml", "z.yml"],
    )  # fmt: skip


def test_without_a_name_the_policy_is_called_as_its_folder(tmp_path: Path) -> None:
    """A name for the ledger and the console, always."""
    folder = tmp_path / "team-a"
    folder.mkdir()
    assert load(write(folder, ALLOW)).name == "team-a"


def test_the_digest_is_of_every_name_and_byte(tmp_path: Path) -> None:
    """Two policies share a digest only when their files do."""
    first = load(write(tmp_path, ALLOW))
    content = (HEAD + ALLOW).encode()
    assert first.digest == hashlib.sha256(f"policy.yaml\0{len(content)}\0".encode() + content).hexdigest()
    assert first.texts == {"policy.yaml": HEAD + ALLOW}
    (tmp_path / "policy.yaml").rename(tmp_path / "other.yaml")
    assert load(tmp_path).digest != first.digest
    write(tmp_path, ALLOW + "# a comment\n", "other.yaml")
    assert load(tmp_path).digest != first.digest


def test_faults_of_all_files_are_told_at_once_in_order(tmp_path: Path) -> None:
    """One round of mending, not one for each fault: syntax, types, references and conditions of every file."""
    write(
        tmp_path,
        "defaults: {timeouts: {total: 5}}\nrules:\n  - {name: a, tools: [x.y], when: arg.z, then: deny}\n",
        "a.yaml",
    )
    write(tmp_path, "tools:\n - match: [\n", "b.yaml")
    write(tmp_path, 'upstreams:\n  u: {http: {url: "{env:NOPE}"}}\ntools:\n  - {match: v.w, efect: read}\n', "c.yaml")
    (tmp_path / "d.yaml").write_bytes(b"\xff\xfe")
    policy, faults = check(tmp_path, env={})
    assert policy is None
    assert [(fault.file, fault.code) for fault in faults] == [
        ("a.yaml", "E02"), ("a.yaml", "E29"), ("b.yaml", "E40"),
        ("c.yaml", "E49"), ("c.yaml", "E01"), ("c.yaml", "E33"), ("d.yaml", "E40"),
    ]  # fmt: skip
    with pytest.raises(Misconfigured) as caught:
        load(tmp_path, env={})
    assert caught.value.faults == faults
    assert str(caught.value).count("\n") == len(faults) - 1


def test_what_is_invalid_hides_no_fault_beside_it(tmp_path: Path) -> None:
    """The valid rest of an entry is still checked, and what is faulty counts as there."""
    text = (
        "upstreams:\n"
        '  docs: {http: {url: "http://127.0.0.1:1", headers: {Authorization: abcd1234}}, helth: {}}\n'
        "tools:\n"
        "  - {match: docs.get, effect: raed, http: {path: no-slash}, fallback: [{tool: dox.get}]}\n"
        "rules:\n"
        '  - {name: a, tools: ["*"], then: alow, when: "args.x.matches(\'(\')"}\n'
    )
    _, faults = check(write(tmp_path, text), env={})
    assert sorted(codes(faults)) == ["E01", "E33", "E36", "E44", "E44", "E48", "E50"]


def test_every_fault_says_where_what_and_how_to_mend_it(tmp_path: Path) -> None:
    """A code that is in the table, a line, and a fix, for whatever is wrong."""
    text = (
        "defaults: {retry: {maxAttempts: 0}}\nfoo: 1\nlimits: {maxDepth: x}\n"
        "tools:\n  - {match: x}\n  - {match: u.x, effect: keyed}\nrules: {}\n"
    )
    for fault in check(write(tmp_path, text))[1]:
        assert fault.code in CODES
        assert fault.line > 0
        assert fault.file == "policy.yaml"
        assert fault.message[-1] in ".:" and fault.fix, fault
        assert str(fault).startswith(f"policy.yaml:{fault.line} ")


def test_warnings_do_not_keep_a_policy_from_being_used(tmp_path: Path) -> None:
    """They are on the policy and in its summary."""
    policy, faults = check(write(tmp_path, "tools:\n  - {match: local.x, timeouts: {total: 9s}}\n" + ALLOW))
    assert policy is not None
    assert policy.warnings == faults
    assert [(fault.code, fault.severity) for fault in faults] == [("W02", "warning")]
    assert policy.summary()["warnings"]


def test_the_number_of_faults_is_bounded(tmp_path: Path) -> None:
    """A thousand are shown, the rest counted."""
    rules = "".join(f"  - {{name: r{number}, tools: [a.b], then: nope}}\n" for number in range(MAX_FAULTS + 5))
    _, faults = check(write(tmp_path, "rules:\n" + rules))
    assert len(faults) == MAX_FAULTS + 1
    assert "1005 faults" in faults[-1].message


def test_rules_of_other_tools_are_not_even_looked_at(tmp_path: Path) -> None:
    """A thousand rules cost what ten do: the index leaves those of this tool and agent."""
    rules = "".join(
        f"  - {{name: r{number}, tools: [local.t{number}], agents: [a{number}], when: args.x > 1, then: deny}}\n"
        for number in range(1000)
    )
    policy = load(write(tmp_path, "rules:\n" + rules + '  - {name: all, tools: ["*"], then: allow}\n'))
    found = policy.rules._find("local.t7", "a7")
    assert [rule.name for rule in (*found.denies, *found.approvals, *found.allows)] == ["r7", "all"]
    assert [rule.name for rule in policy.rules._find("local.t7", "a8").denies] == []


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────


def with_secrets(folder: Path) -> Policy:
    (folder / "token").write_text(SECRET + "\n", encoding="utf-8")
    text = (
        'upstreams:\n  pay:\n    http:\n      url: "{env:PAY_URL}/v1/"\n      headers:\n'
        '        Authorization: "Bearer {env:PAY_TOKEN}"\n        X-Key: "{file:token}"\n'
        f'        X-Path: "{{file:{folder}/token}}"\n'
        '        X-Both: "{env:PAY_TOKEN}:{file:token}"\n        X-Team: red\n'
    )
    return load(write(folder, text + ALLOW), env={"PAY_TOKEN": SECRET, "PAY_URL": "https://pay.test"})


def test_secrets_are_resolved_when_the_policy_is_loaded(tmp_path: Path) -> None:
    """From the environment and from files, alone or inside a text; the last line break of a file is not part of it."""
    http = with_secrets(tmp_path).upstreams["pay"].http
    assert http is not None
    assert http.url == "https://pay.test/v1"
    revealed = {name: value.reveal() if isinstance(value, Secret) else value for name, value in http.headers.items()}
    assert revealed == {
        "Authorization": f"Bearer {SECRET}", "X-Key": SECRET, "X-Path": SECRET, "X-Both": f"{SECRET}:{SECRET}",
        "X-Team": "red",
    }  # fmt: skip


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    """Not in repr or str of anything, not in the summary, not in the texts that are kept."""
    policy = with_secrets(tmp_path)
    plan = policy.plan("pay.x")
    assert plan is not None
    shown = [repr(policy), str(policy), repr(plan), repr(policy.upstreams), json.dumps(policy.summary())]
    shown += [str(policy.texts), f"{plan.upstream.http}", repr(policy.rules)]
    assert not [text for text in shown if SECRET in text]
    headers = policy.summary()["upstreams"]["pay"]["http"]["headers"]  # type: ignore[index]
    assert headers == ["Authorization", "X-Both", "X-Key", "X-Path", "X-Team"]


def test_a_changed_secret_makes_an_unequal_policy_with_the_same_digest(tmp_path: Path) -> None:
    """Whoever reloads can see that a secret was rotated although no file of the policy changed."""
    before = with_secrets(tmp_path)
    (tmp_path / "token").write_text("another-secret", encoding="utf-8")
    after = load(tmp_path, env={"PAY_TOKEN": SECRET, "PAY_URL": "https://pay.test"})
    assert after.digest == before.digest
    assert after.upstreams != before.upstreams


@pytest.mark.parametrize("value", ["", "two\nlines", "bell\x07"])
def test_a_secret_that_would_break_a_header_is_a_fault_that_does_not_show_it(tmp_path: Path, value: str) -> None:
    """Missing, empty or with a line break: refused at load, not at the first call."""
    text = 'upstreams:\n  pay: {http: {url: "http://127.0.0.1:1", headers: {X-Key: "{env:KEY}"}}}\n' + ALLOW
    _, faults = check(write(tmp_path, text), env={"KEY": value})
    assert codes(faults) == ["E49"]
    assert not value or value not in str(faults[0])


@pytest.mark.parametrize(
    "literal",
    [
        SECRET, "Bearer abcdefgh12345", "ghp_" + "a" * 36, "AKIA" + "A" * 16, "sk-proj-" + "a" * 24, "xoxb-1-a",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.x", "Basic dXNlcjpwYXNzd29yZA==",
    ],
)  # fmt: skip
def test_no_fault_ever_repeats_a_secret_that_was_written_out(tmp_path: Path, literal: str) -> None:
    """E36 names the key. Whatever else is wrong with that value, it is not repeated."""
    bare = literal.rpartition(" ")[2]
    text = (
        f'upstreams:\n  pay: {{http: {{url: "http://me:{bare}@h", headers: {{X-Api-Key: "{literal}"}}}}}}\n'
        f'  two: {{http: {{url: "{literal}", headers: {{Authorization: ["{literal}"]}}}}}}\n'
        f"tools:\n  - match: pay.x\n    effect: read\n"
        f'    http: {{headers: {{Authorization: "{literal}"}}, query: {{k: "{literal}"}}}}\n'
    )
    _, faults = check(write(tmp_path, text + ALLOW), env={})
    assert "E36" in codes(faults)
    assert not [fault for fault in faults if bare in str(fault)]


@pytest.mark.parametrize(
    ("name", "text", "secret"),
    [
        ("Authorization", "{env:TOKEN}", False), ("Authorization", "Bearer {env:TOKEN}", False),
        ("X-Api-Key", "{file:/run/key}", False), ("X-Token", "{args.token}", False), ("X-Team", "blue", False),
        ("Accept", "application/json", False), ("X-Token-Kind", "jwt", False),
        ("Authorization", "Bearer abcdefgh1", True), ("X-Team", "ghp_" + "b" * 30, True), ("cookie", "a=bcd", True),
        ("client_secret", "abcd", True), ("X-Any", "Bearer abcdefgh1 {env:X}", True),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret(name: str, text: str, secret: bool) -> None:
    """By the key's name or by the value's own form; references and templates are what should be written."""
    assert looks_secret(name, text) is secret


def test_a_secret_shows_where_it_comes_from_and_nothing_else() -> None:
    """Logged by mistake, it is its source; only reveal() gives it."""
    secret = Secret(SECRET, "env:TOKEN")
    assert f"{secret} {secret!r} {[secret]}" == "«env:TOKEN» «env:TOKEN» [«env:TOKEN»]"
    assert secret.reveal() == SECRET
    assert secret == Secret(SECRET, "env:TOKEN") != Secret("x", "env:TOKEN")


# ── schema ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_json_schema_is_a_schema_and_describes_every_key() -> None:
    """For editors: valid, closed, and each key with a sentence."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, section in {"Policy": schema, **schema["$defs"]}.items():
        if "properties" not in section:
            continue
        assert section["additionalProperties"] is False, name
        for key, described in section["properties"].items():
            target = schema["$defs"].get(described.get("$ref", "").rpartition("/")[2], {})
            assert described.get("description", target.get("description", "")).endswith("."), f"{name}.{key}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"defaults": {"timeouts": {"total": 5}}},
        {"defaults": {"timeouts": {"total": "5"}}},
        {"tools": [{"match": "a.b", "efect": "read"}]},
        {"tools": [{"match": "a.b", "fallback": [{"tool": "a.c", "static": {"value": 1}}]}]},
        {"rules": [{"name": "x", "tools": ["a.b"]}]},
        {"domain": {"rateLimits": [{"rate": "20"}]}},
        {"unknown": 1},
    ],
)
def test_the_json_schema_refuses_what_the_loader_refuses(wrong: dict[str, object]) -> None:
    """An editor underlines what `outrider check` would refuse."""
    document = {"apiVersion": "outrider.dev/v1alpha1", "kind": "Policy", **wrong}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema()).validate(document)


def test_the_summary_is_json_and_names_what_decides(tmp_path: Path) -> None:
    """What GET /v1/policy shows."""
    summary = json.loads(json.dumps(with_secrets(tmp_path).summary()))
    assert set(summary) == {
        "name", "digest", "mode", "folder", "files", "upstreams", "tools", "rules", "limits", "ledger", "kills", "runs",
        "identity", "agents", "warnings",
    }  # fmt: skip
    assert summary["rules"][0]["name"] == "all"
    assert summary["upstreams"]["local"]["kind"] == "local"


def test_plans_are_plain_values(tmp_path: Path) -> None:
    """A plan can be compared and taken apart; nothing of it is bound to the loader."""
    plan = with_secrets(tmp_path).plan("pay.x")
    assert plan is not None
    assert asdict(plan.timeouts) == {"total_s": 30.0, "per_try_s": 8.0, "connect_s": 2.0, "idle_s": 60.0}
    assert pickle.loads(pickle.dumps(plan)) == plan
