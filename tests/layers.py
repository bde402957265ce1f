"""The import graph of a tree of packages: python -m tests.layers [ROOT] prints its size, cycles and upward arrows.

An arrow is an `import` of one own module by another, wherever it stands: at the top, inside a function, or under
`TYPE_CHECKING`. A level is a module's longest way down to one that imports no other.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = ("tracker", "extensions")

Arrow = tuple[str, str]
"""The module that imports, and the imported one."""

LAYERS: tuple[tuple[str, ...], ...] = (
    ("tracker",),
    (
        "tracker.reasons",
        "tracker.checks",
        "tracker.expiring",
        "tracker.malloc",
        "tracker.streams",
        "tracker.systemd",
        "tracker.tasks",
    ),
    ("tracker.worker",),
    ("tracker.settings", "tracker.mistakes"),
    ("tracker.sources",),
    ("tracker.config", "tracker.logs", "tracker.files", "tracker.urls"),
    ("tracker.protocol",),
    ("tracker.core", "tracker.access", "tracker.client", "tracker.health"),
    ("tracker.net", "tracker.check", "tracker.trace"),
    ("tracker.peers",),
    ("tracker.metrics",),
    ("tracker.web",),
    ("tracker.extension",),
    ("tracker.server",),
    ("tracker.process",),
    ("tracker.workers",),
    ("tracker.cli",),
    ("tracker.__main__",),
    ("extensions", "extensions.running", "extensions.signatures", "extensions.trackers"),
    ("extensions.identity", "extensions.dialing", "extensions.entries"),
    ("extensions.dht.krpc",),
    ("extensions.dht.records",),
    ("extensions.cluster", "extensions.demo", "extensions.dht", "extensions.federation", "extensions.tokens"),
)
"""From the ground up. A name stands for a module, or for a package with all its modules, unless a longer name matches.

A module imports only from its own package and from lower layers: two names in one layer do not know each other.
"""


def modules_in(root: Path, packages: Iterable[str] = PACKAGES) -> dict[str, Path]:
    """Return the files of all modules by name."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports_of(source: str, module: str, *, package: bool = False) -> Iterator[str]:
    """Return the dotted names that a module imports; `from a import b` gives `a.b`, which may be no module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = module.split(".")
                parents = parts[: len(parts) - node.level + package]
                origin = ".".join([*parents, origin] if origin else parents)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def arrows_in(root: Path, packages: Iterable[str] = PACKAGES) -> set[Arrow]:
    """Return every import of one module of these packages by another."""
    modules = modules_in(root, packages)
    arrows = set()
    for module, path in modules.items():
        for name in imports_of(path.read_text(), module, package=path.name == "__init__.py"):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and target != module:
                arrows.add((module, target))
    return arrows


def cycles_in(arrows: Iterable[Arrow]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others (Tarjan's algorithm)."""
    targets = defaultdict(list)
    for source, target in sorted(arrows):
        targets[source].append(target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in targets.get(module, ()):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            position = stack.index(module)
            if len(stack) - position > 1:
                cycles.append(sorted(stack[position:]))
            del stack[position:]

    for module in sorted(targets):
        if module not in index:
            visit(module)
    return cycles


def levels_in(arrows: Iterable[Arrow]) -> dict[str, int]:
    """Return the level of each module, from 1; a cycle counts as one module."""
    arrows = set(arrows)
    group = {module: min(cycle) for cycle in cycles_in(arrows) for module in cycle}
    targets: defaultdict[str, set[str]] = defaultdict(set)
    for source, target in arrows:
        one, other = group.get(source, source), group.get(target, target)
        targets[one] |= {other} - {one}
    levels: dict[str, int] = {}

    def level(module: str) -> int:
        if module not in levels:
            levels[module] = 1 + max(map(level, targets.get(module, ())), default=0)
        return levels[module]

    return {module: level(group.get(module, module)) for arrow in arrows for module in arrow}


def place_of(module: str) -> tuple[int, str] | None:
    """Return the layer of a module and the name in `LAYERS` that it belongs to; None if it has no place there."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        # `tracker` and `extensions` are there for their `__init__` alone: a new module needs a place of its own.
        if name in PACKAGES and name != module:
            return None
        for number, layer in enumerate(LAYERS):
            if name in layer:
                return number, name
    return None


def points_down(arrow: Arrow) -> bool:
    """Return whether an import stays in its package or points to a lower layer."""
    source, target = map(place_of, arrow)
    assert source, f"{arrow[0]} has no place in LAYERS"
    assert target, f"{arrow[1]} has no place in LAYERS"
    return source[1] == target[1] or target[0] < source[0]


def figures(root: Path) -> str:
    """Return the size of the import graph in words, for each package and for both."""
    lines = []
    for packages in (*((package,) for package in PACKAGES), PACKAGES):
        arrows = arrows_in(root, packages)
        cycles = cycles_in(arrows)
        lines.append(
            f"{' + '.join(packages):21} {len(modules_in(root, packages)):4} modules, {len(arrows):4} arrows,"
            f" {max(levels_in(arrows).values()):2} levels, {len(cycles)} cycles {cycles or ''}".rstrip()
        )
    return "\n".join(lines)


def main() -> None:
    """Print the figures of a tree, and the imports that point up where its modules have their places in `LAYERS`."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    print(figures(root))
    arrows = arrows_in(root)
    unplaced = sorted(module for module in modules_in(root) if place_of(module) is None)
    up = sorted(arrow for arrow in arrows if not {*arrow} & {*unplaced} and not points_down(arrow))
    print(f"{len(up)} arrows up or sideways, {len(unplaced)} modules without a place")
    for source, target in up:
        print(f"  {source} -> {target}")


if __name__ == "__main__":
    main()
