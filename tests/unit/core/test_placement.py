from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mom_core.names import PartitionId
from mom_core.placement import NodeState, Placement, PlacementNode, place

ACTIVE = NodeState.ACTIVE


def node(number: int, rack: str = "", state: NodeState = ACTIVE) -> PlacementNode:
    return PlacementNode(f"node-{number}", rack, state)


def partitions(*sizes: int) -> dict[PartitionId, str | None]:
    return {
        PartitionId(f"{topic:032x}", index): None
        for topic, size in enumerate(sizes)
        for index in range(size)
    }


node_lists = st.lists(
    st.builds(
        PlacementNode,
        st.sampled_from([f"node-{n}" for n in range(8)]),
        st.sampled_from(["", "a", "b", "c"]),
        st.sampled_from(NodeState),
    ),
    max_size=8,
    unique_by=lambda node: node.node_id,
)
assignments = st.dictionaries(
    st.builds(PartitionId, st.sampled_from([f"{t:032x}" for t in range(5)]), st.integers(0, 9)),
    st.none() | st.sampled_from([f"node-{n}" for n in range(9)]),
    max_size=40,
)


def loads(placement: Placement, nodes: list[PlacementNode]) -> list[int]:
    counts = Counter(placement.assignment.values())
    return [counts[n.node_id] for n in nodes if n.state is ACTIVE]


@given(assignments, node_lists)
def test_active_nodes_are_balanced_within_one(
    current: dict[PartitionId, str | None], nodes: list[PlacementNode]
) -> None:
    active = loads(place(current, nodes), nodes)
    assert not active or max(active) - min(active) <= 1


@given(assignments, node_lists)
def test_everything_is_where_it_may_be(
    current: dict[PartitionId, str | None], nodes: list[PlacementNode]
) -> None:
    states = {n.node_id: n.state for n in nodes}
    placed = place(current, nodes).assignment
    assert placed.keys() == current.keys()
    any_active = ACTIVE in states.values()
    for partition, owner in placed.items():
        was = current[partition]
        if was is not None and states.get(was) is NodeState.CORDONED:
            assert owner == was
        elif any_active:
            assert owner is not None
            assert states[owner] is ACTIVE
        else:
            draining = was is not None and states.get(was) is NodeState.DRAINING
            assert owner == (was if draining else None)


@given(assignments, node_lists)
def test_no_move_beyond_what_balance_needs(
    current: dict[PartitionId, str | None], nodes: list[PlacementNode]
) -> None:
    """The fewest moves between active nodes: what lies above the best choice of shares."""
    active = {n.node_id for n in nodes if n.state is ACTIVE}
    placement = place(current, nodes)
    between = [move for move in placement.moves if move.source in active]
    if not active:
        assert not between
        return
    before = Counter(owner for owner in current.values() if owner in active)
    total = sum(1 for owner in placement.assignment.values() if owner in active)
    least, larger = divmod(total, len(active))
    held = sorted((before[n] for n in active), reverse=True)
    shares = [least + 1] * larger + [least] * (len(active) - larger)
    assert len(between) == sum(max(0, h - s) for h, s in zip(held, shares, strict=True))


@given(assignments, node_lists)
def test_idempotent_and_the_moves_are_the_difference(
    current: dict[PartitionId, str | None], nodes: list[PlacementNode]
) -> None:
    first = place(current, nodes)
    assert place(first.assignment, nodes) == Placement(first.assignment, ())
    replayed = dict(current)
    for move in first.moves:
        assert replayed[move.partition] == move.source != move.target
        replayed[move.partition] = move.target
    assert replayed == first.assignment


@given(assignments, node_lists, st.randoms())
def test_the_order_of_the_inputs_makes_no_difference(
    current: dict[PartitionId, str | None], nodes: list[PlacementNode], order: object
) -> None:
    shuffled_nodes, items = list(nodes), list(current.items())
    order.shuffle(shuffled_nodes)  # type: ignore[attr-defined]
    order.shuffle(items)  # type: ignore[attr-defined]
    assert place(dict(items), shuffled_nodes) == place(current, nodes)


@given(
    st.lists(st.integers(1, 20), max_size=8),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=7),
)
def test_from_nothing_every_topic_is_spread_within_one(sizes: list[int], racks: list[str]) -> None:
    nodes = [node(number, rack) for number, rack in enumerate(racks)]
    placed = place(partitions(*sizes), nodes).assignment
    for topic in range(len(sizes)):
        owners = Counter(o for p, o in placed.items() if p.topic_id == f"{topic:032x}")
        counts = [owners[n.node_id] for n in nodes]
        assert max(counts) - min(counts) <= 1


def test_neighbouring_partitions_are_in_different_racks() -> None:
    nodes = [node(0, "a"), node(1, "a"), node(2, "b"), node(3, "b"), node(4, "c"), node(5, "c")]
    racks = {n.node_id: n.rack for n in nodes}
    placed = place(partitions(12), nodes).assignment
    order = [racks[owner or ""] for _, owner in sorted(placed.items())]
    assert all(one != other for one, other in pairwise(order))


def test_a_node_that_joins_gets_some_of_every_topic() -> None:
    nodes = [node(number) for number in range(3)]
    before = place(partitions(12, 12, 12, 12), nodes).assignment
    after = place(before, [*nodes, node(3)])
    assert len(after.moves) == 12
    got = Counter(move.partition.topic_id for move in after.moves)
    assert set(got.values()) == {3}


def test_a_node_that_is_lost_and_returns() -> None:
    nodes = [node(number) for number in range(3)]
    before = place(partitions(12), nodes).assignment
    lost = place(before, [node(0, state=NodeState.LOST), *nodes[1:]])
    assert {move.source for move in lost.moves} == {"node-0"}
    assert loads(lost, nodes[1:]) == [6, 6]
    back = place(lost.assignment, nodes)
    assert {move.target for move in back.moves} == {"node-0"}
    assert len(back.moves) == 4
