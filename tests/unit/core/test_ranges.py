"""RangeSet against a plain set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mom_core.ranges import RangeSet

spans = st.tuples(st.integers(0, 40), st.integers(0, 10)).map(lambda s: (s[0], s[0] + s[1]))


@given(st.lists(spans, max_size=12), spans, st.integers(0, 50))
def test_it_behaves_as_a_set(
    several: list[tuple[int, int]], span: tuple[int, int], low: int
) -> None:
    ranges = RangeSet(several)
    model = {offset for first, end in several for offset in range(first, end)}
    assert {o for first, end in ranges for o in range(first, end)} == model
    firsts = [first for first, _ in ranges]
    assert all(end < after for (_, end), after in zip(ranges, firsts[1:], strict=False))
    assert all((offset in ranges) == (offset in model) for offset in range(55))
    pieces = list(ranges.split(*span))
    covered = [(o, inside) for first, end, inside in pieces for o in range(first, end)]
    assert covered == [(o, o in model) for o in range(*span)]
    end = low
    while end in model:
        end += 1
    assert ranges.end_at(low) == end
    assert ranges.first_end() == next(iter(ranges), None)
    ranges.remove_below(low)
    assert {o for first, end in ranges for o in range(first, end)} == {o for o in model if o >= low}
