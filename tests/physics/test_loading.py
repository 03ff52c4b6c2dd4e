"""Which pieces leave memory: least recently used, weighted by what loading them again costs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer.physics.loading import Loaded, credit, evicted


def uses(order: str, load_s: dict[str, float], room: float) -> set[str]:
    """Use pieces of size 1 in an order, and return those that are in memory in the end."""
    pieces: dict[str, Loaded] = {}
    floor = 0.0
    for name in order:
        if name not in pieces:
            for gone in evicted(pieces, len(pieces) + 1 - room):
                floor = pieces.pop(gone).credit
        pieces.pop(name, None)  # the most recently used stands last
        pieces[name] = Loaded(1.0, load_s[name], credit(floor, load_s[name], 1.0))
    return set(pieces)


@settings(max_examples=50)
@given(st.text("abcdef", min_size=1, max_size=40), st.integers(1, 4))
def test_equal_costs_make_it_plain_least_recently_used(order: str, room: int) -> None:
    recent = list(dict.fromkeys(reversed(order)))[:room]
    assert uses(order, dict.fromkeys("abcdef", 0.5), room) == set(recent)


def test_a_piece_that_is_dear_to_load_stays_for_a_while_and_not_for_ever() -> None:
    load_s = {"a": 2.5, **dict.fromkeys("bcdefgh", 1.0)}
    assert uses("abcd", load_s, 2) == {"a", "d"}
    assert "a" not in uses("abcdefgh", load_s, 2)


def test_what_is_in_use_stays_and_no_more_goes_than_needed() -> None:
    pieces = {name: Loaded(10.0, 1.0, order) for order, name in enumerate("abc")}
    assert evicted(pieces, 15.0) == ("a", "b")
    assert evicted(pieces, 15.0, {"a"}) == ("b", "c")
    assert evicted(pieces, 100.0, {"c"}) == ("a", "b")
    assert evicted(pieces, 0.0) == ()
