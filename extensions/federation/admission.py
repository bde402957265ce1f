"""Which trackers may be linked: the operator's choice, and the trackers that have broken a rule (sans I/O)."""

from collections.abc import Collection
from typing import Final

from extensions.federation.listed import Listed
from extensions.federation.reasons import EndReason
from extensions.federation.settings import FederationSettings
from tracker.extension import ExpiringMap

SHUN: Final = 600.0
"""Seconds for which a tracker that has broken a rule is neither dialed nor accepted."""

MAX_SHUNNED: Final = 2000
"""Trackers that are shunned at the same time; the oldest are forgotten first."""


class Admission:
    """Decides by tracker id. All times are seconds on a monotonic clock."""

    def __init__(self, settings: FederationSettings, own_id: str, listed: Collection[Listed]) -> None:
        self._settings = settings
        self._own_id = own_id
        self._listed = listed
        self._shunned: ExpiringMap[str, EndReason] = ExpiringMap(SHUN, MAX_SHUNNED)

    def url_of(self, tracker_id: str) -> str:
        """Return the listed URL at which a tracker was reached, or an empty text."""
        return next((one.url for one in self._listed if one.tracker_id == tracker_id), "")

    def is_listed(self, tracker_id: str) -> bool:
        """Return whether a tracker was reached at a listed URL."""
        return bool(self.url_of(tracker_id))

    def admits(self, tracker_id: str, now: float) -> bool:
        """Return whether a tracker may be linked now."""
        settings = self._settings
        if tracker_id == self._own_id or tracker_id in settings.deny or self.shunned_for(tracker_id, now):
            return False
        return settings.policy == "open" or tracker_id in settings.allow or self.is_listed(tracker_id)

    def shun(self, tracker_id: str, reason: EndReason, now: float) -> None:
        """Do not admit a tracker for `SHUN` seconds, because it has broken a rule."""
        self._shunned.put(tracker_id, reason, now)

    def shunned_for(self, tracker_id: str, now: float) -> EndReason | None:
        """Return the rule that a shunned tracker has broken; None if it is not shunned."""
        return self._shunned.get(tracker_id, now)
