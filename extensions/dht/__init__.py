"""The extension `dht`: which trackers serve an infohash, by BEP 44 records in the BitTorrent DHT."""
