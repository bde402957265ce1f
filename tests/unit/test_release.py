"""A release: its workflow, its notes, and the README of the package."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploy.release import notes
from tests.shipping import ROOT
from tracker import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAM = '"""Text."""\n\n__version__ = "1.2.3"\n'
CHANGELOG = """# Changelog

## Unreleased

## 1.2.3 - 2026-12-24

* new

## 1.2.2 - 2026-11-01

* old
"""


def test_the_notes_are_the_section_of_the_version() -> None:
    assert notes("1.2.3", PROGRAM, CHANGELOG) == "* new\n"
    assert notes("1.2.2", PROGRAM.replace("1.2.3", "1.2.2"), CHANGELOG) == "* old\n"


@pytest.mark.parametrize(
    ("version", "changelog"),
    [("1.2.4", CHANGELOG), ("1.2.3", CHANGELOG.replace("1.2.3 - 2026", "1.2.3")), ("1.2.3", "")],
)
def test_a_release_that_is_not_prepared_is_refused(version: str, changelog: str) -> None:
    with pytest.raises(ValueError, match=r"version|section"):
        notes(version, PROGRAM, changelog)


def test_the_command_finds_the_files() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "release.py", "0.0.0"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"release: tracker/__init__.py has the version {__version__}, not 0.0.0\n",
    )


@pytest.mark.parametrize("file", sorted((ROOT / ".github" / "workflows").iterdir()), ids=lambda path: path.name)
def test_the_workflows_are_workflows(file: Path) -> None:
    schema = ("check-jsonschema", "--builtin-schema", "vendor.github-workflows")
    checked = subprocess.run(
        [Path(sys.executable).with_name(schema[0]), *schema[1:], file], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_the_readme_of_the_package_has_no_relative_links(tmp_path: Path) -> None:
    code = "from hatchling.build import prepare_metadata_for_build_wheel as p; import sys; print(p(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, check=True)
    (metadata,) = tmp_path.glob("*/METADATA")
    text = metadata.read_text()
    assert f"]({PROJECT['urls']['Homepage']}/blob/main/docs/deploy.md)" in text
    assert "](docs/" not in text


def test_one_address_of_the_project() -> None:
    home = PROJECT["urls"]["Homepage"]
    assert all(url.startswith(home) for url in PROJECT["urls"].values())
    for name in ("SECURITY.md", "Dockerfile"):
        assert home in (ROOT / name).read_text()
