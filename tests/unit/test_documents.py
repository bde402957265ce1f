"""Settings, limits and links in documents exist, and docs/migrating.md explains each option of bittorrent-tracker."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WEB, unavailable
from tests.shipping import ROOT
from tracker.extension.discovery import discover
from tracker.protocol.codec import MAX_SDP_BYTES
from tracker.settings import Settings

DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("grafana/*.md")])
FOR_USERS = [
    ROOT / "README.md",
    *(DOCS / f"{name}.md" for name in ("cluster", "deploy", "faq", "migrating", "tokens", "web")),
]


def defaults() -> dict[str, Any]:
    """Return the default of each key, by its name with the section, and None for each section."""
    sections: dict[str, Any] = {name: field.annotation for name, field in Settings.model_fields.items()}
    del sections["extensions"]
    sections |= {f"extensions.{name}": extension.Settings for name, extension in discover().items()}
    found: dict[str, Any] = dict.fromkeys(sections)
    for name, section in sections.items():
        found |= {f"{name}.{key}": field.get_default() for key, field in section.model_fields.items()}
    return found


DEFAULTS = defaults()
OTHERS = ("tracker.example.", "tracker.extension")


def here(document: Path) -> str:
    """Return the text about this tracker: in docs/migrating.md, the first column is about others."""
    text = document.read_text()
    return re.sub(r"^\| `[^|]*\|", "", text, flags=re.MULTILINE) if document.name == "migrating.md" else text


@pytest.mark.parametrize("document", FOR_USERS, ids=lambda path: path.name)
def test_settings_exist(document: Path) -> None:
    tops = "|".join(Settings.model_fields)
    named = re.findall(rf"`((?:{tops})(?:\.[a-z_]+)+)(?: = [^`]*)?`", here(document))
    assert [name for name in named if name not in DEFAULTS and not name.startswith(OTHERS)] == []
    assert named or document.name == "faq.md"


def test_limits_for_pages_are_the_defaults() -> None:
    section = (DOCS / "web.md").read_text().partition("\n## Limits\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:1] == "|"][2:]
    assert {key.strip("`"): int(value) for _, value, _, key in rows if key} == {
        key.strip("`"): DEFAULTS[key.strip("`")] for _, _, _, key in rows if key
    }
    assert [value for _, value, _, key in rows if not key] == [str(MAX_SDP_BYTES)]


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text()):
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_each_option_of_bittorrent_tracker_is_explained() -> None:
    package = WEB / "node_modules" / "bittorrent-tracker"
    if not package.exists():
        unavailable("npm's bittorrent-tracker")
    usage, server = (package / "bin" / "cmd.js").read_text(), (package / "server.js").read_text()
    options = set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", usage, re.MULTILINE))
    options |= set(re.findall(r"\bopts\.(\w+)", server.partition("listen (...args)")[0]))
    assert {"--udp6-hostname", "peersCacheTtl"} <= options
    text = (DOCS / "migrating.md").read_text().partition("## bittorrent-tracker\n")[2].partition("\n## ")[0]
    assert {option for option in options if f"`{option}`" not in text} == set()
