"""The manual page is displayed without warnings, and shells complete commands and options."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.conftest import unavailable
from tests.shipping import ROOT
from tracker.cli import cli

COMMANDS = set(cli.list_commands(click.Context(cli, **cli.context_settings)))


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Install a program `peerservers`; return the path on which shells find it."""
    program = tmp_path / "peerservers"
    # Its name decides which variable asks for the script.
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom tracker.cli import main\nsys.argv[0] = 'peerservers'\nmain()\n"
    )
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def run(path: str, *command: str, **environment: str) -> str:
    """Return the output of a program, which must not fail or complain."""
    variables = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("shell", "registration"),
    [
        ("bash", "complete -o nosort -F _peerservers_completion peerservers"),
        ("zsh", "#compdef peerservers"),
        ("fish", "complete --no-files --command peerservers"),
    ],
)
def test_a_shell_gets_its_script(path: str, shell: str, registration: str) -> None:
    assert registration in run(path, "peerservers", _PEERSERVERS_COMPLETE=f"{shell}_source")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("peerservers ''", COMMANDS),
        ("peerservers ch", {"check"}),
        ("peerservers tokens ''", {"check", "new"}),
        ("peerservers check --t", {"--timeout"}),
    ],
)
def test_bash_completes(path: str, words: str, expected: set[str]) -> None:
    """This is how bash itself calls the script after a TAB."""
    last = len(words.split()) - 1
    script = (
        'eval "$(_PEERSERVERS_COMPLETE=bash_source peerservers)"; '
        f"COMP_WORDS=({words}); COMP_CWORD={last}; _peerservers_completion peerservers; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert set(run(path, "bash", "--norc", "-c", script).split()) == expected


def test_the_manual_page_has_no_mistakes(path: str) -> None:
    if shutil.which("groff") is None:
        unavailable("groff")
    page = str(ROOT / "docs" / "man" / "peerservers.1")
    text = run(path, "groff", "-man", "-ww", "-Tutf8", "-P-cbou", page)
    lines = [line.split() for line in text.splitlines()]
    for command in COMMANDS:
        assert ["peerservers", command] in [words[:2] for words in lines]
