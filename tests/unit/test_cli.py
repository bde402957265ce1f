"""Commands of other packages, which may be broken."""

from importlib.metadata import EntryPoint, EntryPoints, entry_points

import click
import pytest
from click.testing import CliRunner

from tracker import cli


@pytest.fixture(autouse=True)
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a command that cannot be imported."""

    def points(group: str, name: str = "broken") -> EntryPoints:
        added = EntryPoint("broken", "no_such_module:command", cli.COMMANDS)
        return EntryPoints([*entry_points(group=group), added]).select(name=name)

    monkeypatch.setattr(cli, "entry_points", points)


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_lists_also_a_command_that_cannot_be_loaded(argument: str) -> None:
    ended = CliRunner().invoke(cli.cli, [argument])
    assert ended.exit_code == 0
    for line in ("broken    (cannot be loaded)", "serve     Run the tracker."):
        assert line.split() in [shown.split() for shown in ended.output.splitlines()]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-x", "--some", "thing"]])
def test_a_command_that_cannot_be_loaded_says_why(arguments: list[str]) -> None:
    with pytest.raises(click.ClickException, match=r"broken: cannot be loaded: ModuleNotFoundError"):
        cli.cli.main(["broken", *arguments], standalone_mode=False)
