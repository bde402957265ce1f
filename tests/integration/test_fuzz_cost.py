"""The search for dear inputs: its targets, its measure, and the known attacks."""

import pytest

pytest.importorskip("picows", reason="`make bench` installs it")

from benchmarks import fuzz_cost
from benchmarks.attacks import ATTACKS, operation
from benchmarks.fuzz_cost import Costs, Input, Search
from benchmarks.fuzz_seeds import GRAMMARS
from benchmarks.operations import MAX_OFFERS
from benchmarks.targets import TARGETS, valid_announce
from extensions.dht.krpc import messages
from tracker.protocol.codec import decode
from tracker.protocol.messages import Announce


@pytest.mark.parametrize("name", ATTACKS)
def test_a_known_attack_is_accepted_by_size_and_raises_nothing(name: str) -> None:
    target, build = ATTACKS[name]
    assert TARGETS[target].size(build()) <= TARGETS[target].max_size
    operation(name)()


def test_the_item_of_many_parts_is_still_decoded() -> None:
    message = messages.decode(ATTACKS["datagram: an item of integers"][1]())
    assert isinstance(message, messages.Reply)
    assert message.item is not None


@pytest.mark.parametrize("size", [200, 1000, 5000, 262_144])
def test_the_valid_announce_has_the_size_that_is_asked_for(size: int) -> None:
    payload = valid_announce(size)
    message = decode(payload, MAX_OFFERS)
    assert isinstance(message, Announce)
    assert size - MAX_OFFERS <= len(payload) <= size
    assert (message.invalid_offers, message.surplus_offers) == (0, 0)
    assert len(message.offers) == MAX_OFFERS or size < 3000


@pytest.mark.parametrize("name", TARGETS)
def test_the_search_keeps_the_dearest_inputs(name: str) -> None:
    search = Search(TARGETS[name], Costs(), seed=1)
    search.run(0.1)
    ratios = [find.ratio for find in search.kept]
    assert search.tried > len(GRAMMARS[name].seeds)
    assert ratios
    assert ratios == sorted(ratios, reverse=True)
    assert all(len(find.input.data) <= TARGETS[name].max_size for find in search.kept)


def test_an_input_has_as_many_units_as_fit() -> None:
    assert Input(b"[", b"1,", b"0]", 10).data == b"[1,1,1,0]"
    assert Input(b"[", b"", b"0]", 10).data == b"[0]"
    assert Input(b"[" * 20, b"1", b"]", 10).data == b"[" * 20 + b"]"


def test_the_finds_are_printed_and_saved(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    arguments = ["--target", "datagram", "--seconds", "0.1", "--top", "2", "--save", str(tmp_path)]
    assert fuzz_cost.main(arguments) == 0
    assert "datagram" in capsys.readouterr().out
