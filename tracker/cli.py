"""The command `peerservers`.

Commands import the modules that only they need themselves, so that `peerservers health` starts quickly.
"""

import asyncio
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import click

from tracker import COMPILED, __version__
from tracker.config import ConfigError, Configuration, config_option, default_toml, effective_toml, given, load
from tracker.health import check_health
from tracker.urls import own_url

COMMANDS: Final = "peerservers.commands"


class _NumberOrText(click.ParamType[int | str]):
    """A number, or text, which the check of the settings refuses if it must."""

    name = "integer"

    def convert(self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None) -> int | str:
        return int(value) if str(value).isdecimal() else str(value)


class _Commands(click.Group):
    """The tracker's own commands, and those in the entry-point group `peerservers.commands` of installed packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *entry_points(group=COMMANDS).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for point in entry_points(group=COMMANDS, name=cmd_name):
            try:
                command = point.load()
            except Exception as error:
                return _unloadable(cmd_name, error)
            if isinstance(command, click.Command):
                return command
        return None


def _unloadable(name: str, error: Exception) -> click.Command:
    """Return a command that reports the error with which importing the real one failed.

    The other commands and `--help` work nevertheless.
    """

    def complain() -> None:
        raise click.ClickException(f"{name}: cannot be loaded: {error!r}") from error

    return click.Command(
        name,
        callback=complain,
        short_help="(cannot be loaded)",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(f"{__version__} ({'compiled' if COMPILED else 'not compiled'})", prog_name="peerservers")
def cli() -> None:
    """A WebTorrent tracker whose extensions let peers meet across trackers."""


@cli.command()
@config_option
@click.option("--host", multiple=True, help="Address to listen on, or unix: and a path; may be repeated.")
@click.option("--port", type=int, help="TCP port.")
@click.option(
    "--workers", type=_NumberOrText(), metavar="INTEGER|auto", help="Number of processes that serve the port."
)
@click.option("--public-url", help="URL at which other trackers reach this one (ws:// or wss://).")
@click.option(
    "--state-dir", type=click.Path(file_okay=False), help="Directory of the identity key and other persistent state."
)
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-format", help="text or json.")
def serve(
    config_file: Path | None,
    host: tuple[str, ...],
    port: int | None,
    workers: int | str | None,
    public_url: str | None,
    state_dir: str | None,
    log_level: str | None,
    log_format: str | None,
) -> None:
    """Run the tracker.

    The environment variable PEERSERVERS_SECTION__KEY sets any setting; `peerservers config` prints them all, and
    `peerservers config --check` reports mistakes.
    """
    server = {
        **{"host": list(host) or None, "port": port, "workers": workers},
        **{"public_url": public_url, "state_dir": state_dir},
    }
    overrides = {"server": given(server), "log": given({"level": log_level, "format": log_format})}

    from tracker.extension.discovery import check_workers, configure
    from tracker.logs import configure as configure_logs
    from tracker.logs import queue_standard_streams, share_standard_streams
    from tracker.process import TrackerProcess, run
    from tracker.worker import take_inherited
    from tracker.workers.process import WorkerProcess
    from tracker.workers.supervisor import Supervisor, number_of_workers, supervise

    def reload() -> Configuration:
        return configure(config_file, overrides)[0]

    inherited = take_inherited()
    queue_standard_streams()
    configuration, extensions = configure(config_file, overrides)
    count = number_of_workers(configuration.settings)
    if inherited or count > 1:
        share_standard_streams(inherited.worker.index if inherited else None)
    log = configuration.settings.log
    configure_logs(log.level, log.format)
    with configuration.locating():
        if inherited:
            sys.exit(run(WorkerProcess(configuration, extensions, reload, inherited)))
        if count > 1:
            check_workers(extensions)
            sys.exit(supervise(Supervisor(configuration, count, reload)))
        sys.exit(run(TrackerProcess(configuration, extensions, reload)))


@cli.command()
@config_option
@click.argument("url", required=False)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds to wait for each response.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File in PEM of authorities to trust as well.",
)
@click.option("--insecure", is_flag=True, help="Trust any certificate.")
def check(
    config_file: Path | None, url: str | None, timeout: float, as_json: bool, ca: Path | None, insecure: bool
) -> None:
    """Test any WebTorrent tracker with a few peers, and report the results.

    URL begins with ws://, wss://, http:// or https://, or it is unix: and the path of a Unix-domain socket. By default
    it is server.public_url, or the address that a tracker with these settings listens on.

    The exit code is 0 if peers can meet at the tracker, 1 if they cannot, and 2 for a mistake in the arguments.
    """
    from tracker.check import check as run_check
    from tracker.check import tls_context, tracker_url

    try:
        url = tracker_url(own_url(load(config_file)) if url is None else url)
        context = tls_context(ca, verify=not insecure)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if context and url.startswith("ws:"):
        raise click.UsageError("--ca and --insecure are for wss://, https:// and unix:")

    def say(text: str) -> None:
        if not as_json:
            click.echo(text, nl=False)

    report = asyncio.run(run_check(url, timeout, context, say))
    if as_json:
        click.echo(report.as_json())
    sys.exit(0 if report.peers_can_meet else 1)


@cli.command()
@config_option
@click.option(
    "--check", "only_check", is_flag=True, help="Report all mistakes and doubtful values; exit code 2 if wrong."
)
@click.option("--effective", is_flag=True, help="Print the settings in use, each with its source.")
def config(config_file: Path | None, only_check: bool, effective: bool) -> None:
    """Print the default configuration with comments, in TOML.

    With --check or --effective, read the settings as `peerservers serve` does instead.
    """
    from tracker.extension.discovery import check_workers, configure, discover

    if not (only_check or effective):
        click.echo(default_toml({name: extension.Settings for name, extension in discover().items()}), nl=False)
        return
    configuration, extensions = configure(config_file, {})
    if effective:
        click.echo(effective_toml(configuration), nl=False)
    if only_check:
        from tracker.logs import configure as configure_logs
        from tracker.server import Server
        from tracker.workers.supervisor import number_of_workers

        async def make() -> None:
            # Reads the files that the settings name, and starts nothing.
            if number_of_workers(configuration.settings) > 1:
                check_workers(extensions)
            Server(configuration.settings, extensions)

        configure_logs("error", "text")
        with configuration.locating():
            asyncio.run(make())
    for warning in configuration.warnings:
        click.echo(f"warning: {warning}", err=True)
    if only_check:
        click.echo("the settings are valid", err=effective)


@cli.command()
@config_option
@click.option("--host", multiple=True, help="Address that the tracker listens on, if it is not in the settings.")
@click.option("--port", type=int, help="TCP port of the tracker, if it is not in the settings.")
def health(config_file: Path | None, host: tuple[str, ...], port: int | None) -> None:
    """Ask the tracker on this machine whether it is healthy, as Docker, Kubernetes and systemd do.

    The settings tell its address: run this with the same file and environment as the tracker.

    The exit code is 0 if the tracker is healthy, otherwise 1.
    """
    trouble = check_health(load(config_file, {"server": given({"host": list(host) or None, "port": port})}))
    click.echo(trouble or "healthy", err=bool(trouble))
    sys.exit(1 if trouble else 0)


def main() -> None:
    """Run the command line. Each mistake of the operator gives one line, and exit code 2, never a traceback."""
    _open_standard_streams()
    try:
        cli.main(standalone_mode=False)
    except ConfigError as error:
        _fail(*error.mistakes)
    except click.ClickException as error:
        _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        _fail(str(error))


def _open_standard_streams() -> None:
    # Python has None for a closed stream. The first socket would get its file descriptor, and the output to it.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "r+" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _fail(*texts: str) -> None:
    for text in texts:
        click.echo(f"peerservers: {text}", err=True)
    sys.exit(2)
