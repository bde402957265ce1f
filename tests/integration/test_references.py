"""The generated references in docs/ are up to date."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """Import the script that writes them."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration", "dht", "metrics"])
def test_a_reference_is_up_to_date(generate: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable in ("PEERSERVERS_EXTENSIONS__DHT__ENABLED", "PEERSERVERS_EXTENSIONS__FEDERATION__ENABLED"):
        monkeypatch.delenv(variable, raising=False)
    assert (DOCS / f"{name}.md").read_text() == getattr(generate, name)(), "run `make docs`"


def test_the_manual_page_is_up_to_date(generate: ModuleType) -> None:
    assert (DOCS / "man" / "peerservers.1").read_text() == generate.manual(), "run `make docs`"
