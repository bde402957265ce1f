"""Words in docstrings that stand in place of a noun: python -m tests.language [DIRECTORY]... prints how many there are.

"What waits is sent" names no subject; "buffered messages are sent" does. The numbers are per 1000 words of docstrings.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

PATTERNS = {
    "what": r"what|whatever",
    "who": r"who|whom|whose|whoever",
    "nobody": r"(?:some|any|every|no)(?:body|one)",
}
_WORD = re.compile(r"[A-Za-z][A-Za-z']*")


def docstrings(source: str) -> Iterator[str]:
    """Return the docstrings of a module, its classes and functions, and the strings that follow attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def count(texts: Iterable[str]) -> tuple[int, Counter[str]]:
    """Return the number of words, and of each kind in `PATTERNS`."""
    words = 0
    found: Counter[str] = Counter()
    for text in texts:
        for word in _WORD.findall(text.lower()):
            words += 1
            found.update(kind for kind, pattern in PATTERNS.items() if re.fullmatch(pattern, word))
    return words, found


def modules(*directories: Path) -> list[Path]:
    """Return all modules of the directories, but none of packages that npm has installed there."""
    found = [path for directory in directories for path in sorted(directory.rglob("*.py"))]
    return [path for path in found if "node_modules" not in path.parts]


def rates(*paths: Path) -> dict[str, float]:
    """Return how many words of each kind there are per 1000 words of docstrings in all these modules together."""
    words, found = count(text for path in paths for text in docstrings(path.read_text()))
    return {kind: 1000 * found[kind] / max(words, 1) for kind in PATTERNS}


def main() -> None:
    """Print the rates of each directory: by default the code of the tracker and its extensions, and the tests."""
    for directory in map(Path, sys.argv[1:] or ("tracker", "extensions", "tests")):
        print(f"{directory!s:24}", ", ".join(f"{kind} {rate:.1f}" for kind, rate in rates(*modules(directory)).items()))


if __name__ == "__main__":
    main()
