"""The core's tests of several nodes, with the real protocol between them: the outcomes are the same."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import settings

from tests.unit.cluster.as_one import AsOne
from tests.unit.core import test_nodes_meetings as meetings
from tests.unit.core import test_nodes_model
from tests.unit.core.test_nodes_model import ClusterAgainstModel

SCENARIOS: dict[str, Callable[[], object]] = {
    "all meet": partial(meetings.test_every_peer_of_a_small_swarm_meets_every_other_one, seed=1, size=3),
    "newcomers": partial(meetings.test_newcomers_that_make_no_offers_get_those_of_all_nodes, 4),
    "parked": meetings.test_parked_offers_go_to_peers_at_a_node_that_opens_the_swarm,
    "answers": meetings.test_an_answer_goes_back_to_the_maker,
    "mixing": partial(meetings.test_one_swarm_of_200_mixes_over_nodes_as_at_one_node, 5),
    "seeders": partial(meetings.test_the_budget_of_scarce_seeders_is_the_same_over_nodes, 3, True, True),
    "room": partial(meetings.test_rooms_are_complete_after_the_next_interval, 6),
    "repeated offers": meetings.test_a_repeated_offer_goes_to_the_same_member_after_others_have_joined,
    "growth": meetings.test_a_swarm_that_grows_and_shrinks_is_told_by_number_and_then_one_by_one,
    "roles": meetings.test_peers_meet_whichever_role_is_where,
}


@pytest.fixture(autouse=True)
def _real_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (meetings, test_nodes_model):
        monkeypatch.setattr(module, "Cluster", AsOne)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_outcome_is_that_of_one_tracker(name: str) -> None:
    SCENARIOS[name]()


class NodesAgainstModel(ClusterAgainstModel):
    """Random messages of clients to three nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster: Any = AsOne(3)


NodesAgainstModel.TestCase.settings = settings(max_examples=30, stateful_step_count=40)
TestNodesAgainstModel = NodesAgainstModel.TestCase
