"""Which link gives way to a new one when no more links are allowed (sans I/O; times are seconds on a monotonic clock).

A link that is used stays, whatever other trackers do: new ids cost nothing. A link is used when two peers meet over it
that had not met over it before: peers of small swarms make offers again and again to those that they have met.
"""

from collections.abc import Iterable
from typing import Final

from extensions.federation.link import Link

UNUSED: Final = 15.0
"""Seconds without a new meeting of peers after which a link may be replaced by one that has a common swarm. A new link
that was opened for a common swarm is not replaced earlier, either."""


def has_common(link: Link, now: float) -> bool:
    """Return whether a link has a common swarm, or was opened for one a moment ago."""
    return bool(link.account.members) or (bool(link.wanted) and now - link.opened_at < UNUSED)


def weakest(links: Iterable[Link], now: float, common: bool) -> Link | None:
    """Return the link that gives way to a new one, or None if all stay. `common`: the new one has a common swarm.

    `links` must not contain the links of listed trackers. First comes the link that has been without common swarms for
    longest, then, if the new one has a common swarm, the link that has been unused for longest.
    """
    links = list(links)
    idle = [link for link in links if not has_common(link, now)]
    if idle:
        return min(idle, key=lambda link: link.account.last_shared)
    if not common:
        return None
    unused = [link for link in links if now - link.account.last_used > UNUSED]
    return min(unused, key=lambda link: link.account.last_used, default=None)
