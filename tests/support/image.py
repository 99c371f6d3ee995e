"""The image without an engine: what the Dockerfile copies and installs, in a folder; what it starts, shut in.

Absolute paths of the image lie below ``root``. A process of the image runs as another user without capabilities, its
whole file system read-only but for the folders it is given. That takes root and mount namespaces; where a machine of
tests has less, less is shut: ``how`` says what it was.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support import deployment

OURS = re.compile(r"(?<![\w./:])/(?=(?:src|wheels|opt/outrider|etc/outrider|data|run/outrider|app)\b)")
"""A path of the image's that the Dockerfile or a manifest names; others are the system's."""

OWN_MOUNTS = ("/tmp", "/var/tmp", "/dev/shm", "/run")
"""Where anybody may write; often file systems of their own, so that sealing the root does not seal them."""


@dataclass(frozen=True)
class Image:
    root: Path

    def here(self, text: str) -> str:
        """The text with the image's paths as they are on this machine."""
        return OURS.sub(f"{self.root}/", text)

    @property
    def env(self) -> dict[str, str]:
        """A container's: what the image says and nothing of this machine, no HOME either."""
        said = deployment.variables(deployment.dockerfile()[-1])
        path = self.here(said["PATH"]).replace("$PATH", os.defpath.lstrip(":"))
        return {name: self.here(text) for name, text in said.items()} | {"PATH": path}

    def command(self, words: Sequence[str]) -> list[str]:
        """A program of the image's, by its whole path."""
        found = shutil.which(words[0], path=self.env["PATH"])
        assert found is not None, f"the image has no {words[0]}"
        return [found, *(self.here(word) for word in words[1:])]

    def started(self) -> list[str]:
        """ENTRYPOINT and CMD."""
        final = deployment.dockerfile()[-1]
        parts = [deployment.exec_form(deployment.all_of(final, name)[0]) for name in ("ENTRYPOINT", "CMD")]
        return self.command([word for part in parts for word in part])

    def healthcheck(self) -> list[str]:
        text = deployment.all_of(deployment.dockerfile()[-1], "HEALTHCHECK")[0]
        return self.command(deployment.exec_form(text.partition(" CMD ")[2]))

    def folder(self, name: str, user: int, mode: int = 0o700) -> Path:
        """A volume of a user's, and of the image's group."""
        made = self.root / name
        made.mkdir(parents=True)
        if os.getuid() == 0:
            os.chown(made, user, 10001)
        made.chmod(mode)
        return made

    def shut_in(self, command: Sequence[str], writable: Sequence[Path], user: int = 10001) -> list[str]:
        """The command as this user, with nothing to write to but these folders."""
        if os.getuid() != 0:
            return list(command)
        as_user = [*_drop(user), "--", *command]
        if not can_mount():
            return as_user
        binds = [f"mount --bind {folder} {folder}" for folder in map(str, (self.root, *writable))]
        seals = [f"mount -o remount,bind,ro {folder}" for folder in (self.root, "/")]
        opens = [f"mount -o remount,bind,rw {folder}" for folder in writable]
        seals += [f"{{ ! mountpoint -q {each} || mount -o remount,bind,ro {each}; }}" for each in OWN_MOUNTS]
        script = " && ".join([binds[0], seals[0], *binds[1:], *opens, *seals[1:], f"exec {shlex.join(as_user)}"])
        return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script]


def _drop(user: int) -> list[str]:
    """To a user without capabilities, but the one to read what this machine keeps from others: its Python may lie in
    root's home."""
    caps = "-all" if _anybody_reads(Path(sys.base_prefix)) else "-all,+dac_read_search"
    ids = ["--reuid", str(user), "--regid", "10001", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *ids, f"--inh-caps={caps}", f"--ambient-caps={caps}", f"--bounding-set={caps}"]


def _anybody_reads(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (path, *path.resolve().parents))


@cache
def can_mount() -> bool:
    """Whether this machine lets root have a mount namespace; many containers do not."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        return False
    trial = ["unshare", "--mount", "--propagation", "private", "--", "mount", "-o", "remount,bind,ro", "/"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def build() -> Image:
    """Do what the Dockerfile does, with its own commands. The caller removes ``root``."""
    root = Path(tempfile.mkdtemp(prefix="outrider-image-"))
    root.chmod(0o755)
    try:
        image = Image(root)
        subprocess.run([sys.executable, "-m", "venv", str(root / "python")], check=True)
        for stage in deployment.dockerfile():
            _copy(image, stage)
            _install(image, stage)
    except BaseException:
        shutil.rmtree(root)
        raise
    return image


def _copy(image: Image, stage: Sequence[deployment.Instruction]) -> None:
    work = Path(image.here(next(iter(deployment.all_of(list(stage), "WORKDIR")))))
    for text in deployment.all_of(list(stage), "COPY"):
        *sources, target = text.split()
        if sources[0].startswith("--from"):
            assert [target] == sources[1:], "an environment works only where it was made"
            continue
        for source in sources:
            _copy_one(deployment.ROOT / source, work, image.here(target))


def _copy_one(source: Path, work: Path, target: str) -> None:
    place = work / target / source.name if target.endswith("/") else work / target
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, place)


def _install(image: Image, stage: Sequence[deployment.Instruction]) -> None:
    """The RUN lines that install; those that make users and folders are the machine's business here."""
    env = dict(_of_pip(os.environ)) | {
        "PATH": f"{image.root}/python/bin:{os.defpath.lstrip(':')}",
        "HOME": str(image.root),
    }
    for text in deployment.all_of(list(stage), "RUN"):
        if "pip" not in text:
            continue
        command = image.here(text)
        done = subprocess.run(
            ["sh", "-c", command], cwd=image.root / "src", env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def _of_pip(env: Mapping[str, str]) -> Mapping[str, str]:
    """How this machine's pip is set up, and by which proxy it goes."""
    return {
        name: text
        for name, text in env.items()
        if name.startswith(("PIP_", "SSL_", "REQUESTS_")) or name.lower().endswith("_proxy")
    }
