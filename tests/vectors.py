"""Reads the test vectors from `docs/dht.md`, so that the document and the code cannot diverge."""

from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "dht.md"


@dataclass(frozen=True)
class Vectors:
    """The section "Test vectors" of the document."""

    named: dict[str, str]
    urls: list[tuple[str, bool]]
    """URLs, and whether each is valid."""
    values: list[tuple[str, bytes]]
    """Reasons for which a part of a slot's value is ignored, or "none", and the value."""
    placing: dict[str, str]
    """The example of an entry that is carried along."""
    node_ids: list[tuple[str, int, bytes]]
    """Addresses, and the last byte and the first three bytes of an id that fits (BEP 42)."""


def read_vectors() -> Vectors:
    """Return the contents of the five blocks of the document's last section."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("\n## Test vectors\n")[2]
    named, urls, values, placing, node_ids = [block.strip().splitlines() for block in section.split("```")[1::2]]
    judged = [line.partition(" ") for line in urls]
    assert {word for word, _, _ in judged} == {"valid", "invalid"}
    return Vectors(
        _table(named),
        [(url, word == "valid") for word, _, url in judged],
        [(reason, bytes.fromhex(data)) for reason, _, data in (line.partition(" ") for line in values)],
        _table(placing),
        [(host, int(last), bytes.fromhex(first)) for host, last, first in (line.split() for line in node_ids)],
    )


def _table(lines: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}
