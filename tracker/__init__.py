"""A complete WebTorrent tracker. It knows nothing of any extension: imports point from `extensions` to here."""

__version__ = "0.1.0"
