"""Imports point down: from the command line to the wire format, from extensions to the tracker's public interface."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.layers import arrows_in, cycles_in, imports_of, levels_in, modules_in, place_of, points_down

ROOT = Path(__file__).parents[2]
ARROWS = arrows_in(ROOT)
MODULES = modules_in(ROOT)

CORE = {
    "tracker.core",
    "tracker.protocol.messages",
    "tracker.protocol.ids",
    "tracker.protocol.errors",
    "tracker.reasons",
    "tracker.expiring",
}


def inside(module: str, *packages: str) -> bool:
    """Return whether a module is one of these, or lies in one of these packages."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def the_tracker_knows_no_extension(source: str, target: str) -> bool:
    return inside(source, "extensions") or not inside(target, "extensions")


def extensions_use_the_public_interface_only(source: str, target: str) -> bool:
    return not inside(source, "extensions") or not inside(target, "tracker") or target == "tracker.extension"


def the_core_knows_messages_but_no_codec(source: str, target: str) -> bool:
    return not inside(source, "tracker.core") or inside(target, *CORE)


def settings_import_checks_only(source: str, target: str) -> bool:
    return source != "tracker.settings" or target == "tracker.checks" or not inside(target, "tracker", "extensions")


def federation_does_not_need_the_dht(source: str, target: str) -> bool:
    return not inside(source, "extensions.federation") or not inside(target, "extensions.dht")


def the_dht_does_not_need_federation(source: str, target: str) -> bool:
    return not inside(source, "extensions.dht") or not inside(target, "extensions.federation")


def imports_point_down(source: str, target: str) -> bool:
    return points_down((source, target))


RULES = [
    the_tracker_knows_no_extension,
    extensions_use_the_public_interface_only,
    the_core_knows_messages_but_no_codec,
    settings_import_checks_only,
    federation_does_not_need_the_dht,
    the_dht_does_not_need_federation,
    imports_point_down,
]


def test_each_module_has_a_place() -> None:
    assert [module for module in MODULES if place_of(module) is None] == [], "give it one in LAYERS in tests/layers.py"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_imports_keep_the_rule(rule: Callable[[str, str], bool]) -> None:
    assert [f"{source} imports {target}" for source, target in sorted(ARROWS) if not rule(source, target)] == []


def test_there_is_no_cycle() -> None:
    assert cycles_in(ARROWS) == []


class TestTheGraph:
    """The rules above are worth as much as the graph that they are asked about."""

    SOURCE = """
import a.one
import a.two as two, b
from a import three, SOMETHING
from a.four import f
from . import five
from .six import g
from .. import h
if TYPE_CHECKING:
    from a.seven import Seven
def late():
    from a import eight
"""

    def test_every_import_is_seen(self) -> None:
        assert set(imports_of(self.SOURCE, "a.c.module")) == {
            *("a.one", "a.two", "b", "a.three", "a.SOMETHING", "a.four.f", "a.c.five", "a.c.six.g", "a.h"),
            *("a.seven.Seven", "a.eight"),
        }

    def test_relative_imports_of_a_package_start_at_itself(self) -> None:
        assert set(imports_of("from . import x\nfrom .y import z", "a.b", package=True)) == {"a.b.x", "a.b.y.z"}

    def test_names_become_modules(self, tmp_path: Path) -> None:
        """`from package import name` is an import of a module, if there is one of that name, or else of the package."""
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "__init__.py").write_text("")
        (tmp_path / "a" / "b.py").write_text("from a import c, VERSION\nimport json, a.missing\n")
        (tmp_path / "a" / "c.py").write_text("from a import c")
        assert arrows_in(tmp_path, ["a"]) == {("a.b", "a.c"), ("a.b", "a")}

    def test_cycles_and_levels(self) -> None:
        arrows = {("top", "x"), ("x", "y"), ("y", "z"), ("z", "x"), ("z", "ground"), ("p", "q"), ("q", "p")}
        assert sorted(cycles_in(arrows)) == [["p", "q"], ["x", "y", "z"]]
        assert levels_in(arrows) == {"ground": 1, "x": 2, "y": 2, "z": 2, "top": 3, "p": 1, "q": 1}

    def test_layers(self) -> None:
        assert points_down(("tracker.net.endpoint", "tracker.net.http"))
        assert points_down(("tracker.net.endpoint", "tracker.access.gate"))
        assert not points_down(("tracker.access.gate", "tracker.net.endpoint"))
        assert not points_down(("tracker.access.gate", "tracker.core.hub"))
        assert not points_down(("extensions.dht.records.slots", "extensions.dht.service"))
        assert place_of("tracker.new") is None
        assert place_of("extensions.new") is None


def test_the_architecture_lists_every_module() -> None:
    """`docs/architecture.md` starts with a tree of the modules: two spaces for each level, names, a description."""
    tree = (ROOT / "docs" / "architecture.md").read_text().split("```\n")[1]
    listed: set[Path] = set()
    parents = [ROOT]
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r" {2,}", line.strip())[0].split()
        del parents[depth + 1 :]
        listed.update(parents[-1] / name for name in names)
        parents.append(parents[-1] / names[0])
    modules = {path for path in MODULES.values() if path.name != "__init__.py"}
    assert {path for path in listed if path.suffix == ".py"} == modules
    assert [path for path in listed if not path.exists()] == []
