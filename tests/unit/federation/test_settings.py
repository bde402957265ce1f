"""The section `[extensions.federation]`."""

import pytest

from extensions.federation.settings import FederationSettings
from tracker.settings import Settings


@pytest.mark.parametrize(
    ("settings", "is_doubtful"),
    [
        ({}, False),
        ({"policy": "allow"}, True),
        ({"policy": "allow", "enabled": False}, False),
        ({"policy": "allow", "allow": ["ab" * 32]}, False),
        ({"policy": "allow", "peers": ["wss://tracker.example.org"]}, False),
    ],
)
def test_a_policy_that_allows_no_tracker_is_doubtful(settings: dict[str, object], is_doubtful: bool) -> None:
    doubts = list(FederationSettings.model_validate(settings).doubts(Settings()))
    assert len(doubts) == is_doubtful
    assert all(doubt.startswith("extensions.federation.allow: ") for doubt in doubts)
