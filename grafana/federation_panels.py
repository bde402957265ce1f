"""The panels of the federation dashboard, in reading order."""

from grafana.model import Json, or_zero, per, quantile, rate, row, stat, timeseries, top

PANELS: list[Json] = [
    row(1, "At a glance"),
    stat(
        2,
        "Links",
        "Open links to other trackers. Each link between two of your own counts at both.",
        ("links", "sum(peerservers_federation_links{})"),
        decimals=0,
    ),
    stat(
        3,
        "Shared swarms",
        "Swarms that are open at both ends of a link, for each link, together.",
        ("swarms", or_zero("sum(peerservers_federation_shared_swarms{})")),
        decimals=0,
    ),
    stat(
        4,
        "Offers over links",
        "Offers that came from or went to other trackers.",
        ("offers", or_zero(rate('peerservers_federation_messages_total{type=~"offers_in|offers_out"}'))),
        unit="mps",
    ),
    stat(
        5,
        "Parked offers",
        "Offers that wait for somebody to come. An offer waits for 45 seconds at most.",
        ("parked", "sum(peerservers_federation_parked_offers{})"),
        decimals=0,
    ),
    stat(
        6,
        "DHT reachable",
        "Whether all trackers that look for others in the DHT know nodes of it.",
        ("reachable", "min(peerservers_dht_reachable{})"),
        unit="bool_yes_no",
        colors=[("red", None), ("green", 1)],
        noValue="no DHT",
        graph=False,
    ),
    stat(
        7,
        "DHT nodes",
        "Nodes in the routing table, at the tracker that knows the fewest.",
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
        "Swarms that are open at both ends, by link: the first 16 digits of the other tracker's id.",
        ("{{tracker}}", or_zero("sum by (tracker) (peerservers_federation_shared_swarms{})", "tracker")),
    ),
    timeseries(
        11,
        "Link ends by reason",
        "Links that ended, or were not made. duplicate, idle, replaced and shutdown are normal; unreachable and "
        "forbidden_address are trackers that announce themselves and are not there; invalid_..., wrong_... and "
        "flood are broken rules, after which the other is shunned.",
        ("{{reason}}", rate("peerservers_federation_links_ended_total{}", by="reason")),
        unit="ops",
        hide_zeros=True,
    ),
    timeseries(
        12,
        "Offers each way",
        "Offers over all links: in from other trackers, out to them.",
        (
            "{{type}}",
            or_zero(rate('peerservers_federation_messages_total{type=~"offers_in|offers_out"}', by="type"), "type"),
        ),
        unit="mps",
    ),
    timeseries(
        13,
        "Answers each way",
        "Answers over all links: out to the peers there whose offers came in, and the other way round.",
        (
            "{{type}}",
            or_zero(rate('peerservers_federation_messages_total{type=~"answers_in|answers_out"}', by="type"), "type"),
        ),
        unit="mps",
    ),
    timeseries(
        14,
        "Refusals each way",
        "Offers sent back because they found nobody: refused_in are ours, refused_out are theirs. Some are normal, "
        "as counts are a few seconds old.",
        (
            "{{type}}",
            or_zero(rate('peerservers_federation_messages_total{type=~"refused_in|refused_out"}', by="type"), "type"),
        ),
        unit="mps",
    ),
    timeseries(
        15,
        "Offers by link",
        "The ten links with the most offers, both ways together.",
        (
            "{{tracker}}",
            or_zero(
                top(rate('peerservers_federation_messages_total{type=~"offers_in|offers_out"}', by="tracker")),
                "tracker",
            ),
        ),
        unit="mps",
    ),
    timeseries(
        16,
        "Answered over links",
        "Share of the offers sent over links that came back as answers.",
        (
            "answered",
            or_zero(
                per(
                    rate('peerservers_federation_messages_total{type=~"answers_in"}'),
                    rate('peerservers_federation_messages_total{type=~"offers_out"}'),
                )
            ),
        ),
        unit="percentunit",
    ),
    timeseries(
        17,
        "Drops by reason",
        "What came or went over links and was left out. slow_link: it does not keep up; too_fast and "
        "too_many_swarms: limits of one link; unknown_swarm and not_asked_for: mostly of peers that have just "
        "left.",
        ("{{reason}}", rate("peerservers_federation_dropped_total{}", by="reason")),
        unit="ops",
        hide_zeros=True,
    ),
    timeseries(
        18,
        "Bytes over links",
        "All messages over links. Sent is shown downwards.",
        ("received", or_zero(rate('peerservers_federation_bytes_total{direction="in"}'))),
        ("sent", or_zero("-" + rate('peerservers_federation_bytes_total{direction="out"}'))),
        unit="Bps",
        mirrored=True,
    ),
    timeseries(
        19,
        "Bytes by link",
        "The ten links with the most bytes, both ways together.",
        ("{{tracker}}", or_zero(top(rate("peerservers_federation_bytes_total{}", by="tracker")), "tracker")),
        unit="Bps",
    ),
    timeseries(
        40,
        "Links opened",
        "Links that were opened, dialed by this tracker or accepted. More than a few in an hour, when no tracker "
        "comes or goes: links are lost and made again.",
        ("{{direction}}", rate("peerservers_federation_links_opened_total{}", by="direction")),
        unit="ops",
    ),
    row(20, "Offers that waited"),
    timeseries(
        21,
        "Parked offers",
        "Offers that found nobody yet, here or at linked trackers.",
        ("{{instance}}", "peerservers_federation_parked_offers{}"),
    ),
    timeseries(
        22,
        "Time parked",
        "How long offers had waited that found somebody, here or at a linked tracker.",
        ("p50", quantile(0.5, "peerservers_federation_parked_seconds")),
        ("p90", quantile(0.9, "peerservers_federation_parked_seconds")),
        unit="s",
        max=45,
    ),
    timeseries(
        23,
        "What became of them",
        "Times that parked offers found somebody, and offers that nobody came for in 45 seconds.",
        ("placed", rate("peerservers_federation_parked_seconds_count{}")),
        ("expired", rate('peerservers_dropped_total{reason="unplaced_offer"}')),
        unit="ops",
    ),
    row(24, "DHT"),
    timeseries(
        25,
        "Nodes",
        "Nodes in the routing table: some hundreds in the public DHT after a few minutes.",
        ("{{instance}}", "peerservers_dht_nodes{}"),
        decimals=0,
    ),
    timeseries(
        26,
        "Reachable",
        "1 while other nodes of the DHT are known. Without them this tracker finds no others and is not found.",
        ("{{instance}}", "peerservers_dht_reachable{}"),
        unit="bool_on_off",
        stepped=True,
        max=1,
    ),
    timeseries(
        27,
        "Lookups by result",
        "Looks at an infohash's record: found some other tracker, none, or reached nobody.",
        ("{{result}}", rate("peerservers_dht_lookups_total{}", by="result")),
        unit="ops",
    ),
    timeseries(
        41,
        "Lookup time",
        "From the beginning of a lookup, its wait for its turn included, to its end, by result: a second or two in "
        "the public DHT, up to 15 more if records could not be read.",
        ("{{result}} p50", quantile(0.5, "peerservers_dht_lookup_seconds", by="result")),
        ("{{result}} p90", quantile(0.9, "peerservers_dht_lookup_seconds", by="result")),
        unit="s",
    ),
    timeseries(
        28,
        "Puts by result",
        "Writings of our entry into records: stored; conflict: another tracker wrote at the same time, and it is "
        "tried again; locked: all of the record's slots are taken by others; unreachable.",
        ("{{result}}", rate("peerservers_dht_publications_total{}", by="result")),
        unit="ops",
    ),
    timeseries(
        29,
        "Records",
        "Infohashes for which this tracker is found, and swarms over max_published for which it is not.",
        ("{{instance}} published", "peerservers_dht_published{}"),
        ("{{instance}} left out", "peerservers_dht_unpublished{}"),
    ),
    timeseries(
        30,
        "Backlog",
        "Infohashes whose look is overdue, and lookups that wait for their turn. A backlog that grows for hours is "
        "more swarms than this tracker may look after.",
        ("overdue", "sum(peerservers_dht_overdue{})"),
        ("lookups waiting", "sum(peerservers_dht_lookups_waiting{})"),
        ("queries in flight", "sum(peerservers_dht_queries_in_flight{})"),
    ),
    timeseries(
        31,
        "Queries by method",
        "Queries sent to nodes, those of lookups and puts; libtorrent's own are in the traffic of the node.",
        ("{{method}}", rate("peerservers_dht_queries_total{}", by="method")),
        unit="reqps",
    ),
    timeseries(
        32,
        "Query results",
        "What became of queries. A third of timeouts is usual in the public DHT; nearly all means that UDP is blocked.",
        ("{{result}}", rate("peerservers_dht_query_results_total{}", by="result")),
        unit="reqps",
    ),
    timeseries(
        33,
        "Query time",
        "Mean time until a query is answered or given up: queries in flight, divided by those that end in a "
        "second. It is as good as many scrapes make it.",
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
        "Mean time that a lookup or put waits for its turn: those waiting, divided by those that end in a second.",
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
        "Items, entries and descriptors found in the DHT that were not valid: anybody can put there what he likes.",
        ("{{reason}}", rate("peerservers_dht_rejected_total{}", by="reason")),
        unit="ops",
        hide_zeros=True,
    ),
    timeseries(
        36,
        "Errors",
        "Queries that timed out or were refused, datagrams that answered nothing, messages that libtorrent's node "
        "dropped, queries held back so that no node gets too many.",
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
        "Bytes over UDP: of our lookups and puts, and of the node that serves others. Sent is shown downwards.",
        ("lookups received", rate("peerservers_dht_received_bytes_total{}")),
        ("lookups sent", "-" + rate("peerservers_dht_sent_bytes_total{}")),
        ("node received", rate("peerservers_dht_node_received_bytes_total{}")),
        ("node sent", "-" + rate("peerservers_dht_node_sent_bytes_total{}")),
        unit="Bps",
        mirrored=True,
    ),
    timeseries(
        38,
        "Node's messages",
        "Messages of libtorrent's node, which answers others. Sent is shown downwards.",
        ("received", rate("peerservers_dht_node_received_messages_total{}")),
        ("sent", "-" + rate("peerservers_dht_node_sent_messages_total{}")),
        unit="mps",
        mirrored=True,
    ),
    timeseries(
        39,
        "Stored for others",
        "What this node keeps for others, as every node of the DHT does.",
        ("items", "sum(peerservers_dht_stored_items{})"),
        ("peers", "sum(peerservers_dht_stored_peers{})"),
    ),
]
