"""The panels of the dashboard of links and the DHT, in reading order."""

from grafana.model import REASONS, Json, or_zero, per, quantile, rate, row, stat, timeseries, top


def with_url(query: str) -> str:
    """Return a query with a value for each link, summed by tracker, and labelled with the tracker's URL, too."""
    named = f"{query} * on (job, instance, tracker) group_left (url) peerservers_federation_link_info{{}}"
    return f"sum by (tracker, url) ({named})"


PANELS: list[Json] = [
    row(1, "At a glance"),
    stat(
        2,
        "Links",
        "Open links to other trackers. A link between two of the chosen trackers counts twice, once at each.",
        ("links", "sum(peerservers_federation_links{})"),
        decimals=0,
    ),
    stat(
        3,
        "Shared swarms",
        "Swarms that have peers at both ends of a link, summed over all links.",
        ("swarms", or_zero("sum(peerservers_federation_shared_swarms{})")),
        decimals=0,
    ),
    stat(
        4,
        "Offers over links",
        "Offers received from and sent to other trackers.",
        ("offers", or_zero(rate('peerservers_federation_messages_total{type=~"offers_in|offers_out"}'))),
        unit="mps",
    ),
    stat(
        5,
        "Parked offers",
        "Offers that are kept until another peer joins the swarm, for 45 seconds at most.",
        ("parked", "sum(peerservers_federation_parked_offers{})"),
        decimals=0,
    ),
    stat(
        6,
        "DHT reachable",
        "Yes if each tracker that uses the DHT knows at least one node of it.",
        ("reachable", "min(peerservers_dht_reachable{})"),
        unit="bool_yes_no",
        colors=[("red", None), ("green", 1)],
        noValue="no DHT",
        graph=False,
    ),
    stat(
        7,
        "DHT nodes",
        "Nodes in the routing table of the tracker that knows the fewest.",
        ("nodes", "min(peerservers_dht_nodes{})"),
        colors=[("red", None), ("green", 1)],
        decimals=0,
    ),
    row(8, "Links"),
    timeseries(
        9,
        "Links",
        "Open links of each tracker.",
        ("{{instance}}", "peerservers_federation_links{}"),
        stepped=True,
        decimals=0,
    ),
    timeseries(
        10,
        "Shared swarms",
        "Swarms that have peers at both ends of a link. The legend shows the other tracker's URL, if it is known, "
        "and the first 16 digits of its id.",
        ("{{url}} {{tracker}}", or_zero(with_url("peerservers_federation_shared_swarms{}"), "tracker")),
    ),
    timeseries(
        60,
        "Listed trackers linked",
        "1 while a tracker in extensions.federation.peers is linked, 0 while it is not. `peerservers federation` shows "
        "why it is not.",
        ("{{instance}} {{url}}", "peerservers_federation_listed_up{}"),
        stepped=True,
        decimals=0,
        max=1,
    ),
    timeseries(
        11,
        "Link ends by reason",
        "Links that ended or could not be opened. duplicate, idle, replaced, shutdown and wrong_id are normal. "
        "too_many_links: there was no room. unreachable and forbidden_address: a tracker announced an address at "
        "which it cannot be dialed. invalid_..., wrong_url, wrong_version and flood: the other tracker broke the "
        "protocol and is shunned for a while.",
        ("{{reason}}", rate("peerservers_federation_links_ended_total{}", by="reason")),
        links=REASONS,
        unit="ops",
        hide_zeros=True,
    ),
    timeseries(
        61,
        "Links closed by others by reason",
        "The reasons of other trackers for the end of a link, or for a refusal. too_many_links and idle: they need the "
        "place for others. not_allowed: they do not want this tracker, or shun it.",
        ("{{reason}}", rate("peerservers_federation_closed_by_others_total{}", by="reason")),
        links=REASONS,
        unit="ops",
        hide_zeros=True,
    ),
    timeseries(
        62,
        "Trackers that are not linked",
        "known: found in the DHT or at other trackers. backoff: not reached or lost, and dialed again soon. place: "
        "dials that wait until others have ended.",
        ("known {{instance}}", "peerservers_federation_known_trackers{}"),
        ("{{for}} {{instance}}", "peerservers_federation_dials_waiting{}"),
        decimals=0,
    ),
    timeseries(
        63,
        "Trackers that tell of trackers",
        "Questions (seek) and answers (trackers) about other trackers, and trackers learned from them. "
        "not_asked_for, too_fast and no_credit were ignored: a hostile tracker may have sent them.",
        ("{{type}}", rate("peerservers_federation_gossip_total{}", by="type")),
        unit="ops",
        hide_zeros=True,
    ),
    timeseries(
        12,
        "Offers by direction",
        "Offers over all links. offers_in: received from other trackers. offers_out: sent to them.",
        (
            "{{type}}",
            or_zero(rate('peerservers_federation_messages_total{type=~"offers_in|offers_out"}', by="type"), "type"),
        ),
        unit="mps",
    ),
    timeseries(
        13,
        "Answers by direction",
        "Answers over all links. answers_out: answers of local peers to offers that were received over a link. "
        "answers_in: answers to offers of local peers.",
        (
            "{{type}}",
            or_zero(rate('peerservers_federation_messages_total{type=~"answers_in|answers_out"}', by="type"), "type"),
        ),
        unit="mps",
    ),
    timeseries(
        14,
        "Refusals by direction",
        "Offers that were sent back because no peer could take them. refused_in: offers of local peers. "
        "refused_out: offers of other trackers. A few are normal, because the peer counts of other trackers are a "
        "few seconds old.",
        (
            "{{type}}",
            or_zero(rate('peerservers_federation_messages_total{type=~"refused_in|refused_out"}', by="type"), "type"),
        ),
        unit="mps",
    ),
    timeseries(
        15,
        "Offers by link",
        "The ten links with the most offers, received and sent together.",
        (
            "{{url}} {{tracker}}",
            or_zero(
                top(with_url('rate(peerservers_federation_messages_total{type=~"offers_in|offers_out"}[])')),
                "tracker",
            ),
        ),
        unit="mps",
    ),
    timeseries(
        16,
        "Answers per offer over links",
        "Share of the offers sent over links that were answered.",
        (
            "answered",
            per(
                rate('peerservers_federation_messages_total{type=~"answers_in"}'),
                rate('peerservers_federation_messages_total{type=~"offers_out"}'),
            ),
        ),
        unit="percentunit",
    ),
    timeseries(
        17,
        "Drops by reason",
        "Messages, or parts of one, that a link left out. slow_link: the other tracker reads too slowly. too_fast "
        "and too_many_swarms: one link exceeds its limit. unknown_swarm and not_asked_for: usually the peer has "
        "just left.",
        ("{{reason}}", rate("peerservers_federation_dropped_total{}", by="reason")),
        links=REASONS,
        unit="ops",
        hide_zeros=True,
    ),
    timeseries(
        18,
        "Bytes over links",
        "Bytes of all messages over links. Sent bytes are drawn below zero.",
        ("received", or_zero(rate('peerservers_federation_bytes_total{direction="in"}'))),
        ("sent", or_zero("-" + rate('peerservers_federation_bytes_total{direction="out"}'))),
        unit="Bps",
        mirrored=True,
    ),
    timeseries(
        19,
        "Bytes by link",
        "The ten links with the most bytes, received and sent together.",
        (
            "{{url}} {{tracker}}",
            or_zero(top(with_url("rate(peerservers_federation_bytes_total{}[])")), "tracker"),
        ),
        unit="Bps",
    ),
    timeseries(
        40,
        "Links opened",
        "Links that this tracker dialed or accepted. If no tracker comes or goes, more than a few in an hour mean "
        "that links are lost and opened again.",
        ("{{direction}}", rate("peerservers_federation_links_opened_total{}", by="direction")),
        unit="ops",
    ),
    row(20, "Parked offers", collapsed=True),
    timeseries(
        21,
        "Parked offers",
        "Offers for which there is no receiver yet, neither here nor at linked trackers.",
        ("{{instance}}", "peerservers_federation_parked_offers{}"),
    ),
    timeseries(
        22,
        "Time parked",
        "How long parked offers waited until a receiver was found, here or at a linked tracker.",
        ("p50", quantile(0.5, "peerservers_federation_parked_seconds")),
        ("p90", quantile(0.9, "peerservers_federation_parked_seconds")),
        unit="s",
        max=45,
    ),
    timeseries(
        23,
        "Parked offers by outcome",
        "placed: a receiver was found. expired: no receiver was found within 45 seconds.",
        ("placed", rate("peerservers_federation_parked_seconds_count{}")),
        ("expired", rate('peerservers_dropped_total{reason="unplaced_offer"}')),
        unit="ops",
    ),
    row(24, "DHT", collapsed=True),
    timeseries(
        25,
        "Nodes",
        "Nodes in the routing table. In the public DHT there are some hundreds after a few minutes.",
        ("{{instance}}", "peerservers_dht_nodes{}"),
        decimals=0,
    ),
    timeseries(
        26,
        "Reachable",
        "1 while the tracker knows other nodes of the DHT. With 0 it does not find other trackers, and they do not "
        "find it.",
        ("{{instance}}", "peerservers_dht_reachable{}"),
        unit="bool_on_off",
        stepped=True,
        max=1,
    ),
    timeseries(
        27,
        "Lookups by result",
        "Lookups of the record of an infohash: another tracker was found, none was found, or no node could be reached.",
        ("{{result}}", rate("peerservers_dht_lookups_total{}", by="result")),
        unit="ops",
    ),
    timeseries(
        41,
        "Lookup time",
        "How long lookups took, including their time in the queue, by result. In the public DHT a lookup takes a "
        "second or two, and up to 15 seconds more if records could not be read.",
        ("{{result}} p50", quantile(0.5, "peerservers_dht_lookup_seconds", by="result")),
        ("{{result}} p90", quantile(0.9, "peerservers_dht_lookup_seconds", by="result")),
        unit="s",
    ),
    timeseries(
        28,
        "Puts by result",
        "Writes of this tracker's entry into records. conflict: another tracker wrote at the same time, so the "
        "write is repeated. locked: other trackers hold all slots of the record. unreachable: no node could be "
        "reached.",
        ("{{result}}", rate("peerservers_dht_publications_total{}", by="result")),
        unit="ops",
    ),
    timeseries(
        29,
        "Records",
        "published: infohashes under which other trackers find this one. left out: swarms over max_published, "
        "which are not published.",
        ("{{instance}} published", "peerservers_dht_published{}"),
        ("{{instance}} left out", "peerservers_dht_unpublished{}"),
    ),
    timeseries(
        64,
        "Records in trouble",
        "Infohashes whose record was in trouble at its last visit. locked: a slot cannot be written. spoilt: a slot "
        "has invalid contents only. emptied: entries are missing. blinded: nodes near the record seem to hide it. "
        "contested: all writes met newer values.",
        ("{{kind}}", "sum by (kind) (peerservers_dht_troubled_records{})"),
        ("{{kind}}, found per minute", "60 * " + rate("peerservers_dht_troubles_total{}", by="kind")),
        hide_zeros=True,
    ),
    timeseries(
        65,
        "Copies of our entries",
        "Of every eight nodes that took an entry, those that still had it when this tracker looked again. If they are "
        "few, entries are written more often.",
        ("{{instance}}", "peerservers_dht_copies{}"),
        max=8,
    ),
    timeseries(
        66,
        "Refresh interval",
        "Time after which entries are written again, at most. It is 70 minutes, and down to 15 where nodes leave the "
        "DHT fast.",
        ("{{instance}}", "peerservers_dht_refresh_seconds{}"),
        unit="s",
    ),
    timeseries(
        67,
        "Size of the DHT",
        "Nodes of the whole DHT, estimated by lookups of random ids; 0 while it is unknown. The public DHT has some "
        "millions in IPv4.",
        ("{{instance}} {{family}}", "peerservers_dht_estimated_nodes{}"),
        decimals=0,
    ),
    timeseries(
        68,
        "Nodes that refuse to store",
        "remembered: nodes that count as refusing for two hours. failed: nodes that refused an entry or were silent, "
        "so that the next nearest got it.",
        ("remembered", "sum(peerservers_dht_refusers{})"),
        ("failed per minute", "60 * " + rate("peerservers_dht_stores_failed_total{}")),
    ),
    timeseries(
        30,
        "Backlog",
        "overdue: infohashes whose next lookup is late. lookups waiting: lookups in the queue. A backlog that "
        "grows for hours means that the tracker has more swarms than it can look up.",
        ("overdue", "sum(peerservers_dht_overdue{})"),
        ("lookups waiting", "sum(peerservers_dht_lookups_waiting{})"),
        ("queries in flight", "sum(peerservers_dht_queries_in_flight{})"),
    ),
    timeseries(
        31,
        "Queries by method",
        "Queries that lookups and puts sent to other nodes. Queries of libtorrent's node are counted under DHT "
        "traffic.",
        ("{{method}}", rate("peerservers_dht_queries_total{}", by="method")),
        unit="reqps",
    ),
    timeseries(
        32,
        "Query results",
        "In the public DHT a third of all queries time out. If nearly all do, UDP is blocked.",
        ("{{result}}", rate("peerservers_dht_query_results_total{}", by="result")),
        unit="reqps",
    ),
    timeseries(
        33,
        "Query time",
        "Mean time until a query is answered or times out: queries in flight, divided by the queries that end per "
        "second. An estimate, which is better with more scrapes.",
        (
            "mean",
            or_zero(
                per(
                    "sum(avg_over_time(peerservers_dht_queries_in_flight{}[]))",
                    rate("peerservers_dht_query_results_total{}"),
                )
            ),
        ),
        unit="s",
    ),
    timeseries(
        34,
        "Time in the queue",
        "Mean time that a lookup or put waits in the queue: the number in the queue, divided by the number that "
        "ends per second.",
        (
            "mean",
            or_zero(
                per("sum(avg_over_time(peerservers_dht_lookups_waiting{}[]))", rate("peerservers_dht_lookups_total{}"))
            ),
        ),
        unit="s",
    ),
    timeseries(
        35,
        "Items ignored by reason",
        "Invalid items, entries and descriptors found in the DHT, into which any node can write any data.",
        ("{{reason}}", rate("peerservers_dht_rejected_total{}", by="reason")),
        links=REASONS,
        unit="ops",
        hide_zeros=True,
    ),
    timeseries(
        36,
        "Errors",
        "timeout and refusal: queries that failed. garbage: datagrams that are no reply to a query. dropped by the "
        "node: messages that libtorrent's node dropped. held back: queries delayed so that no node gets too many.",
        ("timeout", rate('peerservers_dht_query_results_total{result="timeout"}')),
        ("refusal", rate('peerservers_dht_query_results_total{result="refusal"}')),
        ("garbage", rate("peerservers_dht_garbage_total{}")),
        ("dropped by the node", rate("peerservers_dht_node_dropped_messages_total{}")),
        ("held back", rate("peerservers_dht_queries_delayed_total{}")),
        unit="ops",
    ),
    timeseries(
        37,
        "DHT traffic",
        "Bytes over UDP, of lookups and puts and of libtorrent's node, which serves other nodes. Sent bytes are "
        "drawn below zero.",
        ("lookups received", rate("peerservers_dht_received_bytes_total{}")),
        ("lookups sent", "-" + rate("peerservers_dht_sent_bytes_total{}")),
        ("node received", rate("peerservers_dht_node_received_bytes_total{}")),
        ("node sent", "-" + rate("peerservers_dht_node_sent_bytes_total{}")),
        unit="Bps",
        mirrored=True,
    ),
    timeseries(
        38,
        "Messages of the node",
        "Messages of libtorrent's node, which serves other nodes. Sent messages are drawn below zero.",
        ("received", rate("peerservers_dht_node_received_messages_total{}")),
        ("sent", "-" + rate("peerservers_dht_node_sent_messages_total{}")),
        unit="mps",
        mirrored=True,
    ),
    timeseries(
        39,
        "Stored for others",
        "Data that libtorrent's node stores for others, as every node of the DHT does.",
        ("items", "sum(peerservers_dht_stored_items{})"),
        ("peers", "sum(peerservers_dht_stored_peers{})"),
    ),
]
