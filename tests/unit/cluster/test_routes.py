"""The nodes that the offers of a peer came from."""

from extensions.cluster.routes import LIFETIME, MAX_NODES, MAX_ROUTES, Routes

P = "p" * 20
A, B = "a" * 16, "b" * 16


def test_the_last_node_comes_first() -> None:
    routes = Routes(0.0)
    assert routes.find("h", P) == []
    for node in (A, B, A):
        routes.note("h", P, node)
    assert routes.find("h", P) == [A, B]
    assert routes.find("other", P) == []


def test_few_nodes_of_one_peer_are_remembered() -> None:
    routes = Routes(0.0)
    for number in range(9):
        routes.note("h", P, str(number) * 16)
    assert routes.find("h", P) == [number * 16 for number in "8765"]
    routes.age(LIFETIME)
    routes.note("h", P, "7" * 16)
    routes.note("h", P, "9" * 16)
    assert routes.find("h", P) == [number * 16 for number in "9786"]
    assert MAX_NODES == 4


def test_a_route_lives_as_long_as_an_offer_and_then_ends() -> None:
    routes = Routes(0.0)
    routes.age(LIFETIME - 1)
    routes.note("h", P, A)
    routes.age(LIFETIME)
    routes.note("h", P, B)
    assert routes.find("h", P) == [B, A]
    routes.age(2 * LIFETIME - 1)
    assert routes.find("h", P) == [B, A]
    routes.age(2 * LIFETIME)
    assert routes.find("h", P) == [B]
    routes.age(3 * LIFETIME)
    assert routes.find("h", P) == []
    assert len(routes) == 0


def test_routes_are_bounded() -> None:
    routes = Routes(0.0)
    for number in range(MAX_ROUTES * 21 // 10):
        routes.note("h", str(number), A)
        if number % 1000 == 0:
            routes.age(0.0)
    assert len(routes) < 1.2 * MAX_ROUTES
    assert routes.find("h", str(number)) == [A]
