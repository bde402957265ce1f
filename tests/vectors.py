"""The test vectors of `docs/dht.md`, read from there, so that neither can change without the other."""

from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "dht.md"


@dataclass(frozen=True)
class Vectors:
    """What the document has after "Test vectors"."""

    named: dict[str, str]
    urls: list[tuple[str, bool]]
    """Whether each is valid."""
    values: list[tuple[str, bytes]]
    """What of each slot's value is ignored, or "none"."""


def read_vectors() -> Vectors:
    """The three blocks of the document's last section."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("\n## Test vectors\n")[2]
    named, urls, values = [block.strip().splitlines() for block in section.split("```")[1::2]]
    judged = [line.partition(" ") for line in urls]
    assert {word for word, _, _ in judged} == {"valid", "invalid"}
    return Vectors(
        {name: value for name, _, value in (line.partition(": ") for line in named)},
        [(url, word == "valid") for word, _, url in judged],
        [(reason, bytes.fromhex(data)) for reason, _, data in (line.partition(" ") for line in values)],
    )
