"""The notes of a release: python deploy/release.py VERSION.

Writes the section of CHANGELOG.md for this version, and fails if the program has another version, or the changelog has
no such section. To prepare a release, set `__version__` in tracker/__init__.py, and rename the section "Unreleased" to
the version and the date: `## 1.2.3 - 2026-12-24`.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def notes(version: str, program: str, changelog: str) -> str:
    """Return the text of the section for a version.

    Args:
        version: The version to be released.
        program: The source that sets `__version__`.
        changelog: The text of CHANGELOG.md.

    Raises:
        ValueError: The program has another version, or the changelog has no such section.
    """
    found = re.search(r'^__version__ = "(.+)"$', program, re.MULTILINE)
    if not found or found[1] != version:
        raise ValueError(f"tracker/__init__.py has the version {found and found[1]}, not {version}")
    section = re.search(
        rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if not section:
        raise ValueError(f"CHANGELOG.md has no section '## {version} - DATE'")
    return section[1].strip() + "\n"


if __name__ == "__main__":
    try:
        program, changelog = ((ROOT / name).read_text() for name in ("tracker/__init__.py", "CHANGELOG.md"))
        print(notes(sys.argv[1], program, changelog), end="")
    except (IndexError, ValueError) as error:
        sys.exit(f"release: {error or 'no version given'}")
