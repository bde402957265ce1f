"""The core's tests of several nodes, with the real protocol between them: the outcomes are the same."""

from typing import Any

import pytest
from hypothesis import settings

from tests.unit.cluster.as_one import AsOne
from tests.unit.core import test_nodes_meetings, test_nodes_model
from tests.unit.core.test_nodes_meetings import *  # noqa: F403
from tests.unit.core.test_nodes_model import ClusterAgainstModel


@pytest.fixture(autouse=True)
def _real_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (test_nodes_meetings, test_nodes_model):
        monkeypatch.setattr(module, "Cluster", AsOne)


class NodesAgainstModel(ClusterAgainstModel):
    """Random messages of clients to three nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster: Any = AsOne(3)


NodesAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestNodesAgainstModel = NodesAgainstModel.TestCase
