"""The choice between representations, and compression in pieces."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.web.negotiation import Gzip, accepts_gzip, gzipped, quality


@pytest.mark.parametrize(
    ("field", "accepted"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5, br", True),
        ("gzip ; q=1.000", True),
        ("gzip;q=0.001", True),
        ("", False),
        ("identity", False),
        ("*", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, br", False),
        ("gzipped, xgzip", False),
        ("gzip;q=", False),
        ("gzip;q=nan", False),
        ("gzip;q=1e5", False),
        ("gzip;q=\xb9", False),
        ("gzip;q=2", False),
    ],
)
def test_gzip_is_sent_only_to_clients_that_accept_it(field: str, accepted: bool) -> None:
    assert accepts_gzip(field) is accepted


@pytest.mark.parametrize(
    ("field", "weight"),
    [
        ("text/plain", 1.0),
        ("text/plain;version=0.0.4;q=0.3", 0.3),
        ("text/plain;q=0.3;version=0.0.4, text/plain;q=0.7", 0.7),
        ("text/html", 0.0),
        ("text/*, */*", 0.0),
    ],
)
def test_the_weight_of_a_media_type(field: str, weight: float) -> None:
    assert quality(field, "text/plain") == weight


@given(st.text() | st.text("gzip;q=0.1, \t", max_size=50))
def test_any_field_has_a_weight(field: str) -> None:
    assert 0 <= quality(field, "gzip") <= 1


@given(st.lists(st.binary()))
def test_pieces_are_compressed_into_one_stream(pieces: list[bytes]) -> None:
    compressor = Gzip()
    stream = b"".join([*map(compressor.add, pieces), compressor.end()])
    assert gzip.decompress(stream) == gzip.decompress(gzipped(b"".join(pieces))) == b"".join(pieces)
