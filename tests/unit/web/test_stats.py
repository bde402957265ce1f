"""Which client a peer_id tells of."""

import pytest

from tests.unit.fakes import HubHarness
from tracker.web.stats import MAX_CLIENTS, client_of, count


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
