"""When an address family counts as cut off."""

from hypothesis import given
from hypothesis import strategies as st

from extensions.dht.krpc.reception import LOST, MAX_AVOIDED, Reception

DEAD = ("192.0.2.1", 1)


def lose(reception: Reception, number: int, sent: float, is_known: bool = True) -> list[bool]:
    return [reception.timed_out(DEAD, sent, is_known) for _ in range(number)]


def test_it_takes_several_timeouts_without_a_reply() -> None:
    reception = Reception(0.0)
    reception.answered(10.0)
    assert lose(reception, LOST - 1, 11.0) == [True] * (LOST - 1)
    reception.answered(14.0)
    assert lose(reception, LOST, 15.0) == [True] * (LOST - 1) + [False]
    assert reception.is_cut_off


def test_the_first_reply_ends_it() -> None:
    reception = Reception(0.0)
    assert not reception.works
    assert (reception.answered(10.0), reception.works, reception.heard) == ([], True, 10.0)
    lose(reception, LOST, 20.0)
    assert (reception.is_cut_off, reception.works) == (True, False)
    # Those that were avoided before it was noticed are known, so that they can be queried again.
    assert reception.answered(60.0) == [DEAD] * (LOST - 1)
    assert (reception.works, reception.heard) == (True, 60.0)
    assert lose(reception, 1, 61.0) == [True]
    assert reception.answered(64.0) == []


def test_queries_sent_before_the_last_reply_do_not_count() -> None:
    reception = Reception(0.0)
    reception.answered(10.0)
    assert all(lose(reception, 2 * LOST, 9.0))


def test_nodes_that_have_never_answered_count_only_before_the_first_reply() -> None:
    reception = Reception(0.0)
    assert lose(reception, LOST, 1.0, is_known=False)[-1] is False
    reception.answered(10.0)
    assert all(lose(reception, 2 * LOST, 11.0, is_known=False))


def test_the_avoided_nodes_of_a_long_time_without_replies_are_bounded() -> None:
    reception = Reception(0.0)
    reception.answered(10.0)
    # Nodes of the other address family answer, so that lookups go on.
    lose(reception, 100_000, 11.0, is_known=False)
    lose(reception, LOST, 11.0)
    assert len(reception.answered(20.0)) == MAX_AVOIDED


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3), st.booleans()), max_size=60))
def test_it_is_cut_off_exactly_after_so_many_timeouts_since_the_last_reply(
    happened: list[tuple[bool, float, bool]],
) -> None:
    reception, now, heard, lost = Reception(0.0), 0.0, 0.0, 0
    has_answered = False
    for is_reply, passed, is_known in happened:
        now += passed
        if is_reply:
            reception.answered(now)
            heard, lost, has_answered = now, 0, True
        else:
            reception.timed_out(DEAD, now - 2, is_known)
            lost += now - 2 >= heard and (is_known or not has_answered)
        assert reception.is_cut_off == (lost >= LOST)
