"""The settings of the core."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of the section `[tracker]`; times are in seconds."""

    announce_interval: int = 120
    max_offers: int = 20
    max_offers_received: int = 30
    min_peers: int = 0
    lonely_interval: int = 30
    peer_timeout: float = 3600
    full_scrape: bool = False
    max_scrape: int = 256
    max_swarms_per_connection: int = 20000
    max_foreign_offers: int = 120
