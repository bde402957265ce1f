"""What all links together may cost."""

from extensions.federation.limits import Room


def test_a_room_has_so_many_places() -> None:
    assert Room(3).left == 3
