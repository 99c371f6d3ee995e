"""``outrider serve``: run a sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outrider.cli.fault import CliError
from outrider.cli.place import DEFAULT_DATA, DEFAULT_POLICY
from outrider.errors import Misconfigured
from outrider.settings import MAX_PEERS, Address, Enforcement, Peers, Settings, Tls


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
    peers: Annotated[
        str,
        typer.Option(
            "--peers",
            envvar="OUTRIDER_PEERS",
            metavar="HOST:PORT,…",
            help="The control listeners of the other sidecars; this one's own may be among them.",
            show_default=False,
        ),
    ] = "",
    peers_dns: Annotated[
        str,
        typer.Option(
            "--peers-dns",
            envvar="OUTRIDER_PEERS_DNS",
            metavar="NAME[:PORT]",
            help="A DNS name behind which all of them are, for example a headless service. PORT: as --control's.",
            show_default=False,
        ),
    ] = "",
    peer_secret: Annotated[
        Path | None,
        typer.Option(
            "--peer-secret",
            envvar="OUTRIDER_PEER_SECRET_FILE",
            metavar="FILE",
            help="What sidecars know each other by, the same for all. Without it: the admin token.",
            show_default=False,
        ),
    ] = None,
    peer_ca: Annotated[
        str,
        typer.Option(
            "--peer-ca",
            envvar="OUTRIDER_PEER_CA",
            metavar="FILE",
            help="PEM file of the CA of their certificates. Without it: the system's.",
            show_default=False,
        ),
    ] = "",
    peer_timeout: Annotated[
        float,
        typer.Option(
            "--peer-timeout",
            envvar="OUTRIDER_PEER_TIMEOUT",
            metavar="SECONDS",
            help="How long a peer's answer is waited for.",
            min=0.1,
            max=60.0,
        ),
    ] = 3.0,
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
        peers=Peers(
            addresses=_listed(peers),
            dns=None if not peers_dns else _named(peers_dns, control),
            secret_file=peer_secret,
            ca_file=peer_ca,
            timeout_s=peer_timeout,
        ),
    )
    raise typer.Exit(_run(settings))


def _address(text: str, option: str) -> Address:
    try:
        return Address.parse(text, option)
    except Misconfigured as wrong:
        raise CliError(str(wrong), exit_code=2) from None


def _listed(text: str) -> tuple[Address, ...]:
    found = dict.fromkeys(_address(one.strip(), "--peers") for one in text.split(",") if one.strip())
    if len(found) > MAX_PEERS:
        raise CliError(f"--peers lists {len(found)} sidecars; {MAX_PEERS} can know each other.", exit_code=2)
    return tuple(found)


def _named(text: str, control: str) -> Address:
    """Without a port the peers listen where this one does."""
    return _address(text if ":" in text else f"{text}:{_address(control, '--control').port}", "--peers-dns")


def _run(settings: Settings) -> int:
    try:
        from outrider import sidecar
    except ImportError as missing:
        raise CliError(
            f"a part of the sidecar is not installed: {missing}.", "pip install 'outrider[gateway]'"
        ) from None
    return sidecar.serve(settings)
