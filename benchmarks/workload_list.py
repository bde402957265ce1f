"""All workloads, in their order in a run."""

from collections.abc import Callable, Iterator
from typing import Final

from benchmarks import workloads
from benchmarks.attacks import attacks
from benchmarks.cluster import cluster
from benchmarks.core import core
from benchmarks.flood import flood
from benchmarks.guarded import guarded
from benchmarks.link_flood import link_flood
from benchmarks.link_memory import link_memory
from benchmarks.link_open import link_open
from benchmarks.link_relay import link
from benchmarks.pages import pages
from benchmarks.storm import storm
from benchmarks.suite import Result, Suite

WORKLOADS: Final[dict[str, Callable[[Suite], Iterator[Result]]]] = {
    "relay": workloads.relay,
    "latency": workloads.latency,
    "sockets": workloads.sockets,
    "swarms": workloads.swarms,
    "storm": storm,
    "scrape": workloads.scrape,
    "tls": workloads.tls,
    "guarded": guarded,
    "cluster": cluster,
    "link": link,
    "flood": flood,
    "pages": pages,
    "core": core,
    "attacks": attacks,
    "link-memory": link_memory,
    "link-open": link_open,
    "link-flood": link_flood,
}
