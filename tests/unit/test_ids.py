"""Delivery ids: stable, and apart."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events.ids import delivery_id, delivery_number


@pytest.mark.parametrize(
    ("arguments", "instance", "expected"),
    [
        (("a", "section/vendas/webhook"), "", "f3775113643476a4d0158d94463ef00b"),
        (("a", "section/vendas/webhook", 1), "", "9e718a0c19bf220a2e7448e8f9debe8e"),
        (("a", "section/vendas/webhook"), "vendas", "601a74d1b614282489cfab1e4302d7ba"),
    ],
)
def test_an_id_never_changes(arguments: tuple[str, ...], instance: str, expected: str) -> None:
    """The id of a delivery is the same in every release, since far ends and ledgers remember it."""
    assert delivery_id(*arguments, instance=instance) == expected


def test_parts_that_read_alike_together_are_apart() -> None:
    """No part can take over the end of another."""
    made = [
        delivery_id("ab", "c"),
        delivery_id("a", "bc"),
        delivery_id("", "abc"),
        delivery_id("abc", ""),
        delivery_id("a", "b", instance="c"),
        delivery_id("a", "bc", 1),
        delivery_id("1.a", "bc"),
    ]
    assert all(one != other for one, other in combinations(made, 2))


@given(st.text(), st.text(), st.integers(min_value=0, max_value=1 << 63))
def test_an_id_is_32_hexadecimal_digits_and_a_number_of_128_bits(event: str, destination: str, replay: int) -> None:
    """Whatever the parts, the id fits every far end, and its number can be taken back from it."""
    made = delivery_id(event, destination, replay)
    assert len(made) == 32
    assert f"{delivery_number(made):032x}" == made
    assert delivery_id(event, destination, replay) == made


@given(st.tuples(st.text(), st.text(), st.text()), st.tuples(st.text(), st.text(), st.text()))
def test_different_deliveries_have_different_ids(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    """Two deliveries share an id only when they are the same."""
    same = delivery_id(one[0], one[1], instance=one[2]) == delivery_id(other[0], other[1], instance=other[2])
    assert same == (one == other)
