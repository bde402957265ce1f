"""The extension `tokens`: only peers with a valid token may join (docs/tokens.md)."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from extensions.tokens.settings import SECTION, TokensSettings, read_secrets
from extensions.tokens.token import LOOKS_LIKE_ONE, Result, check_token
from tracker.extension import Admission, Admitted, ConfigError, Extension, TrackerHandle, counter_by

REFUSALS: Final[Mapping[Result, str]] = {
    Result.MISSING: "token missing: this tracker is private",
    Result.INVALID: "token invalid",
    Result.EXPIRED: "token expired",
    Result.OTHER_INFOHASH: "token is for another infohash",
}
"""The reasons that clients get."""


class Tokens(Extension):
    """Admits peers by the token in their URL, until it expires."""

    Settings = TokensSettings

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self._from_file: list[str] = []
        if settings.secrets_file:
            tracker.add_file(settings.secrets_file, read_secrets, self._adopt)
        elif not settings.secrets:
            raise ConfigError(f"{SECTION}.secrets: a secret is needed, here or in secrets_file")
        federation = tracker.settings.extensions.get("federation", {})
        if tracker.is_enabled("federation") and "policy" not in federation:
            # By default, peers of every tracker meet the peers here. An operator who wants that can choose it.
            raise ConfigError(
                "extensions.federation.policy: must be set if extensions.tokens is enabled, because peers of linked "
                'trackers need no token: "allow" links with listed trackers only'
            )
        self._checks: Counter[Result] = Counter()
        tracker.registry.register(_TokensCollector(self._checks))

    async def admit(self, request: Admission) -> str | Admitted | None:
        now = time.time()
        secrets = [*self.settings.secrets, *self._from_file]
        checked = check_token(find_token(request), secrets, now, request.info_hash_hex)
        self._checks[checked.result] += 1
        return REFUSALS.get(checked.result) or Admitted(checked.expires - now)

    def _adopt(self, secrets: list[str]) -> None:
        self._from_file = secrets


class _TokensCollector(Collector):
    def __init__(self, checks: Mapping[Result, int]) -> None:
        self._checks = checks

    def collect(self) -> Iterator[Metric]:
        text = "Checks of tokens of peers that want to join"
        yield counter_by("result", "peerservers_tokens", text, self._checks, Result)


def find_token(request: Admission) -> str:
    """Return the token of a peer that wants to join, or an empty string.

    It is the announce's field `token`, or else the first parameter `token` of the query, or else a segment of the path.
    A client can renew only the first of them without another connection.
    """
    field = request.fields.get("token")
    if isinstance(field, str) and field:
        return field
    in_query = parse_qs(request.handshake.query).get("token")
    if in_query:
        return in_query[0]
    segments = (unquote(segment) for segment in request.handshake.path.split("/"))
    return next((segment for segment in segments if LOOKS_LIKE_ONE.match(segment)), "")
