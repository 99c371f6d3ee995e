"""``outrider serve``: run a sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outrider.cli.fault import CliError
from outrider.cli.place import DEFAULT_DATA, DEFAULT_POLICY
from outrider.errors import Misconfigured
from outrider.settings import Address, Enforcement, Settings, Tls


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    policy: Annotated[
        Path, typer.Option("--policy", envvar="OUTRIDER_POLICY", metavar="DIR", help="The folder of policy files.")
    ] = DEFAULT_POLICY,
    data: Annotated[
        Path, typer.Option("--data", envvar="OUTRIDER_DATA", metavar="DIR", help="The folder of ledger and tokens.")
    ] = DEFAULT_DATA,
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            envvar="OUTRIDER_LISTEN",
            metavar="HOST:PORT",
            help="The agents' listener; port 0 picks a free one.",
        ),
    ] = "127.0.0.1:7070",
    uds: Annotated[
        str,
        typer.Option(
            "--uds", envvar="OUTRIDER_UDS", metavar="PATH", help="A Unix socket for agents too.", show_default=False
        ),
    ] = "",
    control: Annotated[
        str,
        typer.Option(
            "--control",
            envvar="OUTRIDER_CONTROL_LISTEN",
            metavar="HOST:PORT",
            help="The people's listener; port 0 picks a free one.",
        ),
    ] = "127.0.0.1:7071",
    listen_cert: Annotated[
        str,
        typer.Option(
            "--listen-cert",
            envvar="OUTRIDER_LISTEN_CERT",
            metavar="FILE",
            help="TLS certificate (PEM).",
            show_default=False,
        ),
    ] = "",
    listen_key: Annotated[
        str,
        typer.Option(
            "--listen-key",
            envvar="OUTRIDER_LISTEN_KEY",
            metavar="FILE",
            help="Its private key (PEM).",
            show_default=False,
        ),
    ] = "",
    control_cert: Annotated[
        str,
        typer.Option(
            "--control-cert",
            envvar="OUTRIDER_CONTROL_CERT",
            metavar="FILE",
            help="TLS certificate (PEM).",
            show_default=False,
        ),
    ] = "",
    control_key: Annotated[
        str,
        typer.Option(
            "--control-key",
            envvar="OUTRIDER_CONTROL_KEY",
            metavar="FILE",
            help="Its private key (PEM).",
            show_default=False,
        ),
    ] = "",
    drain_timeout: Annotated[
        float,
        typer.Option(
            "--drain-timeout",
            envvar="OUTRIDER_DRAIN_TIMEOUT",
            metavar="SECONDS",
            help="How long SIGTERM waits for calls.",
            min=0,
        ),
    ] = 25.0,
    token_dir: Annotated[
        Path | None,
        typer.Option(
            "--token-dir",
            envvar="OUTRIDER_TOKEN_DIR",
            metavar="DIR",
            help="A folder shared with agents: a copy of their token is written there, readable by the folder's group.",
            show_default=False,
        ),
    ] = None,
    enforcement: Annotated[
        Enforcement,
        typer.Option(
            "--enforcement",
            envvar="OUTRIDER_ENFORCEMENT",
            metavar="cooperative|network",
            help="What keeps agents from going round this sidecar to the upstreams. Your word, for the ledger.",
        ),
    ] = "cooperative",
) -> None:
    """Run a sidecar until SIGTERM. Prints one line when it is ready; logs are JSON on stderr."""
    settings = Settings(
        policy=policy,
        data=data,
        listen=_address(listen, "--listen"),
        control=_address(control, "--control"),
        uds=uds,
        listen_tls=Tls(listen_cert, listen_key),
        control_tls=Tls(control_cert, control_key),
        drain_timeout_s=drain_timeout,
        token_dir=token_dir,
        enforcement=enforcement,
    )
    raise typer.Exit(_run(settings))


def _address(text: str, option: str) -> Address:
    try:
        return Address.parse(text, option)
    except Misconfigured as wrong:
        raise CliError(str(wrong), exit_code=2) from None


def _run(settings: Settings) -> int:
    try:
        from outrider import sidecar
    except ImportError as missing:
        raise CliError(
            f"a part of the sidecar is not installed: {missing}.", "pip install 'outrider[gateway]'"
        ) from None
    return sidecar.serve(settings)
