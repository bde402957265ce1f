"""Docstrings name their subjects: words that stand in place of a noun are rare, and become rarer."""

from pathlib import Path

import pytest

from tests.language import PATTERNS, count, docstrings, modules, rates

ROOT = Path(__file__).parents[2]
MODULES = modules(ROOT / "tracker", ROOT / "extensions")

CEILINGS = {"what": 0.6, "who": 1.2, "nobody": 0.2}
"""The highest rates per 1000 words. The docstrings of websockets have 0.0, 0.1 and 0.0."""


@pytest.mark.parametrize("kind", PATTERNS)
def test_a_word_is_not_too_frequent(kind: str) -> None:
    rate = rates(*MODULES)[kind]
    worst = sorted(MODULES, key=lambda path: -count(docstrings(path.read_text()))[1][kind])[:5]
    assert rate <= CEILINGS[kind], f"most of them are in {[str(path.relative_to(ROOT)) for path in worst]}"


def test_docstrings_and_their_words() -> None:
    """Comments, data and f-strings are no docstrings."""
    source = """
'Whoever calls.'
LIMIT = 1
'Somebody has set it.'
DATA = ["what", f"who {LIMIT}"]  # nobody
def f(): "What it returns."
"""
    texts = list(docstrings(source))
    assert sorted(texts) == ["Somebody has set it.", "What it returns.", "Whoever calls."]
    assert count(texts) == (9, {"what": 1, "who": 1, "nobody": 1})
