"""The copy of the agents' token in a shared folder: readable by its group, never through a link, never beside DATA."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from outrider.errors import Misconfigured
from outrider.token_dir import FILE, publish


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def test_the_group_of_the_folder_may_read_and_nobody_else(shared: Path, tmp_path: Path) -> None:
    """Whatever the umask is: not less (the agent could not read) and not more (everybody could)."""
    for umask in (0o077, 0o000):
        before = os.umask(umask)
        try:
            written = publish("secret-of-agents", shared, tmp_path / "data")
        finally:
            os.umask(before)
        assert stat.S_IMODE(written.stat().st_mode) == 0o640
        assert written.stat().st_gid == shared.stat().st_gid
        assert written.read_text() == "secret-of-agents\n"
    assert [path.name for path in shared.iterdir()] == [FILE]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder to any group")
def test_a_group_of_the_folder_is_taken_over(shared: Path, tmp_path: Path) -> None:
    """As with an emptyDir under fsGroup, or a tmpfs made for a group."""
    os.chown(shared, -1, 4242)
    assert publish("secret-of-agents", shared, tmp_path / "data").stat().st_gid == 4242


def test_a_link_laid_there_is_replaced_and_not_followed(shared: Path, tmp_path: Path) -> None:
    """An agent that may write to the folder must not choose what the sidecar overwrites."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (shared / FILE).symlink_to(precious)
    publish("secret-of-agents", shared, tmp_path / "data")
    assert precious.read_text() == "mine"
    assert not (shared / FILE).is_symlink()


@pytest.mark.parametrize("inner", ["data", "data/shared", "."])
def test_a_folder_that_lies_in_the_data_folder_or_around_it_is_refused(tmp_path: Path, inner: str) -> None:
    """Who mounts one of them must not get the people's token with it."""
    (tmp_path / "data" / "shared").mkdir(parents=True)
    with pytest.raises(Misconfigured, match=r"--token-dir .* lie in each other"):
        publish("secret-of-agents", tmp_path / inner, tmp_path / "data")
    assert not list(tmp_path.rglob(FILE))


def test_a_folder_that_is_not_there_is_told_with_the_mend(tmp_path: Path) -> None:
    """A volume that was not mounted must not become a folder that nobody shares."""
    with pytest.raises(Misconfigured, match="is not a folder. Make it, or mount the volume"):
        publish("secret-of-agents", tmp_path / "missing", tmp_path / "data")


@pytest.mark.parametrize(("call", "told"), [("mkstemp", "cannot be written"), ("fchown", "fsGroup")])
def test_what_the_system_refuses_is_told_and_nothing_stays(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, told: str
) -> None:
    """No half-written token and no token with the wrong group."""

    def no(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("tempfile.mkstemp" if call == "mkstemp" else "os.fchmod", no)
    with pytest.raises(Misconfigured, match=told):
        publish("secret-of-agents", shared, tmp_path / "data")
    assert list(shared.iterdir()) == []
