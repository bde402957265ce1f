"""The public API of an extension (docs/extensions.md): everything that an extension may import from the tracker."""

from tracker import __version__
from tracker.access.ratelimit import TokenBucket
from tracker.config import ConfigError, config_option, given, load, validate
from tracker.core.elsewhere import LEECHERS, LINKED, PEER, SEEDERS
from tracker.core.members import known_peers, linked_counts, own_peer, own_peers
from tracker.core.nodes import NodePeers
from tracker.core.observers import Counts, Nodes
from tracker.core.overlap import MARK_LENGTH, UNKNOWN, marks_of
from tracker.core.swarm import NodeMember, Peer, RemoteMember, Swarm
from tracker.expiring import ExpiringMap
from tracker.extension.admission import Admission, Admitted
from tracker.extension.api import Extension, ExtensionSettings, TrackerHandle
from tracker.extension.channel import Channel
from tracker.extension.cluster import Cluster, Receiver, Stream
from tracker.extension.gateway import Gateway
from tracker.extension.state import ExtensionOff
from tracker.files import aside
from tracker.logs import configure as configure_logs
from tracker.logs import without_secrets
from tracker.metrics import counter_by
from tracker.net.errors import ChannelClosed
from tracker.net.routes import Request, Response, Route, plain
from tracker.net.tls_reader import share_tls_buffer
from tracker.protocol.codec import (
    from_json,
    is_answer,
    is_any_offer,
    is_offer,
    make_answer,
    make_offer,
    rebuilt_answer,
    rebuilt_offers,
    to_json,
)
from tracker.protocol.ids import is_any_id, is_id, parse_info_hash, swarm_key
from tracker.protocol.messages import NO_INFO_HASH, Answer, Offer, RawString
from tracker.reasons import CloseReason
from tracker.settings import Settings
from tracker.tasks import BackgroundTasks
from tracker.urls import as_http, own_statistics
from tracker.web.gather import Gather
from tracker.worker import Worker

__all__ = [
    "LEECHERS",
    "LINKED",
    "MARK_LENGTH",
    "NO_INFO_HASH",
    "PEER",
    "SEEDERS",
    "UNKNOWN",
    "Admission",
    "Admitted",
    "Answer",
    "BackgroundTasks",
    "Channel",
    "ChannelClosed",
    "CloseReason",
    "Cluster",
    "ConfigError",
    "Counts",
    "ExpiringMap",
    "Extension",
    "ExtensionOff",
    "ExtensionSettings",
    "Gateway",
    "Gather",
    "NodeMember",
    "NodePeers",
    "Nodes",
    "Offer",
    "Peer",
    "RawString",
    "Receiver",
    "RemoteMember",
    "Request",
    "Response",
    "Route",
    "Settings",
    "Stream",
    "Swarm",
    "TokenBucket",
    "TrackerHandle",
    "Worker",
    "__version__",
    "as_http",
    "aside",
    "config_option",
    "configure_logs",
    "counter_by",
    "from_json",
    "given",
    "is_answer",
    "is_any_id",
    "is_any_offer",
    "is_id",
    "is_offer",
    "known_peers",
    "linked_counts",
    "load",
    "make_answer",
    "make_offer",
    "marks_of",
    "own_peer",
    "own_peers",
    "own_statistics",
    "parse_info_hash",
    "plain",
    "rebuilt_answer",
    "rebuilt_offers",
    "share_tls_buffer",
    "swarm_key",
    "to_json",
    "validate",
    "without_secrets",
]
