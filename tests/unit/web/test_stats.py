"""Statistics: the client that a peer_id encodes, and the tables of extensions beside them."""

import pytest

from tests.unit.fakes import HubHarness
from tracker.web.stats import MAX_CLIENTS, Statistics, Table, Tables, client_of, count


@pytest.mark.parametrize(
    ("peer_id", "client"),
    [
        ("-WW0208-AYKQ2Rl8m82H", ("WebTorrent", "2.8")),
        ("-WW1100-AYKQ2Rl8m82H", ("WebTorrent", "11.0")),
        ("-LT2110-xxxxxxxxxxxx", ("libtorrent (Rasterbar)", "2.1.1")),
        ("-GT0003-xxxxxxxxxxxx", ("GoTorrent", "0.0.0.3")),
        ("-ZZ0000-xxxxxxxxxxxx", ("ZZ", "0")),
        ("-WWabcd-xxxxxxxxxxxx", ("WebTorrent", "abcd")),
        ("\xff" * 20, ("unknown", "-")),
        ("-<b>000-xxxxxxxxxxxx", ("unknown", "-")),
    ],
)
def test_client_of(peer_id: str, client: tuple[str, str]) -> None:
    assert client_of(peer_id) == client


async def test_the_table_of_clients_is_bounded() -> None:
    harness = HubHarness()
    for n in range(MAX_CLIENTS + 50):
        harness.join(f"-XX{n:04}-aaaaaaaaaaaa")
    stats = await count(harness.hub)
    assert sum(len(versions) for versions in stats.clients.values()) == MAX_CLIENTS + 1
    assert stats.clients["other"] == {"-": 50}


def test_tables_in_the_order_in_which_they_were_added() -> None:
    tables = Tables()
    tables.add("weather", Table(lambda: [{"sky": "blue"}]))
    tables.add("neighbours", Table(lambda: [{1: 2}], links=True))  # type: ignore[dict-item]
    assert tables.read() == {"weather": [{"sky": "blue"}], "neighbours": [{"1": 2}]}
    assert tables.names_of_links() == ["neighbours"]


def test_a_second_table_does_not_replace_the_first() -> None:
    tables = Tables()
    tables.add("weather", Table(lambda: [{"sky": "blue"}]))
    with pytest.raises(ValueError, match="weather is taken"):
        tables.add("weather", Table(list))
    assert tables.read() == {"weather": [{"sky": "blue"}]}


@pytest.mark.parametrize("name", Statistics().as_json())
def test_a_table_does_not_replace_a_field_of_the_statistics(name: str) -> None:
    tables = Tables()
    with pytest.raises(ValueError, match=f"{name} is taken"):
        tables.add(name, Table(list))
    assert tables.read() == {}
