"""What each disruption cost, as numbers and as tables for the documents."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from e2e.history.checker import Verdict
from e2e.history.history import CallRecord, Disruption, History

LOST_RULES = ("lost from a log", "lost from a queue")
WHOLE_RUN = "whole run"


@dataclass(frozen=True, slots=True)
class Row:
    """What clients saw of one disruption. Times are seconds."""

    disruption: str
    calls: int
    failed: dict[str, int]
    """Failed calls by kind of client; a kind without any has 0."""
    longest_call_s: float
    """Beyond the wait that was asked for."""
    longest_gap_s: float
    """The longest time between two successful sends of one client, of whatever kind."""
    lost: int
    duplicated: int
    second_leases: int
    gaps_s: dict[str, float] = field(default_factory=dict)
    """The longest gap of any client of each kind."""
    errors: Counter[str] = field(default_factory=Counter)


def rows(history: History, verdict: Verdict) -> list[Row]:
    """A row for each disruption, in their order; for the whole run when there was none."""
    disruptions = history.disruptions or [Disruption(WHOLE_RUN, float("-inf"))]
    return [row(history, verdict, one) for one in disruptions]


def row(history: History, verdict: Verdict, disruption: Disruption) -> Row:
    """The row of one stretch of time."""

    def within(at: float) -> bool:
        return disruption.begin <= at <= disruption.end

    calls = [one for one in history.calls if _overlaps(one, disruption)]
    failures = [
        one for one in calls if one.error is not None and _cause(history, one) in (None, disruption)
    ]
    failed = dict.fromkeys(sorted({one.kind for one in history.clients.values()}), 0)
    for call in failures:
        failed[history.clients[call.client].kind] += 1
    gaps_s = _by_kind(history, gaps(history, disruption))
    return Row(
        disruption.name,
        len(calls),
        failed,
        max((_beyond_wait(one) for one in calls), default=0.0),
        max(gaps_s.values(), default=0.0),
        sum(one.rule in LOST_RULES and within(one.at) for one in verdict.findings),
        sum(within(at) for at in verdict.duplicate_times),
        sum(one.rule == "second lease" and within(one.at) for one in verdict.findings),
        gaps_s,
        Counter(f"{one.what}: {one.error}" for one in failures),
    )


def _overlaps(call: CallRecord, disruption: Disruption) -> bool:
    return call.begin <= disruption.end and call.end >= disruption.begin


def _cause(history: History, call: CallRecord) -> Disruption | None:
    """The last disruption that had begun when a call failed: a poll may have met several."""
    met = [one for one in history.disruptions if _overlaps(call, one)]
    return max(met, key=lambda one: one.begin, default=None)


def gaps(history: History, disruption: Disruption) -> dict[str, float]:
    """The longest time between two successful sends of each client, if it is in the stretch."""
    ends: dict[str, list[float]] = {}
    for send, _, end in history.acked():
        ends.setdefault(send.client, []).append(end)
    longest: dict[str, float] = {}
    for client, times in ends.items():
        times.sort()
        found = [
            later - earlier
            for earlier, later in itertools.pairwise(times)
            if earlier <= disruption.end and later >= disruption.begin
        ]
        longest[client] = max(found, default=0.0)
    return longest


def _by_kind(history: History, of_clients: dict[str, float]) -> dict[str, float]:
    longest: dict[str, float] = {}
    for client, seconds in of_clients.items():
        kind = history.clients[client].kind
        longest[kind] = max(seconds, longest.get(kind, 0.0))
    return longest


def _beyond_wait(call: CallRecord) -> float:
    return max(0.0, call.end - call.begin - call.wait_s)


def markdown_table(found: Sequence[Row]) -> str:
    """The rows as a table of Markdown, ending with a newline."""
    kinds = sorted({kind for one in found for kind in one.failed})
    head = [
        "disruption",
        "calls",
        *(f"failed, {kind}" for kind in kinds),
        "longest call",
        *(f"longest gap, {kind}" for kind in kinds),
        "lost",
        "duplicated",
        "second leases",
    ]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    lines += [
        _line(
            [
                one.disruption,
                f"{one.calls:,}",
                *(f"{one.failed.get(kind, 0):,}" for kind in kinds),
                f"{one.longest_call_s:.2f} s",
                *(f"{one.gaps_s.get(kind, 0.0):.2f} s" for kind in kinds),
                str(one.lost),
                str(one.duplicated),
                str(one.second_leases),
            ]
        )
        for one in found
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def summary(history: History, verdict: Verdict) -> str:
    """What happened, in a few lines, for a person who looks at a failed run."""
    lines = [
        f"{verdict.acked} sends acknowledged, {verdict.failed_sends} failed "
        f"({verdict.landed_though_failed} landed all the same), duplicates: "
        f"{dict(verdict.duplicates) or 'none'}; {verdict.delivered_again} deliveries and "
        f"{verdict.read_again} reads of a subscription came again",
    ]
    lines += [
        f"{one.disruption}: {one.calls} calls, errors {dict(one.errors) or 'none'}, longest call "
        f"{one.longest_call_s:.2f} s, longest gap {one.longest_gap_s:.2f} s"
        for one in rows(history, verdict)
    ]
    lines += [str(one) for one in verdict.findings[:FINDINGS_SHOWN_MAX]]
    if len(verdict.findings) > FINDINGS_SHOWN_MAX:
        lines.append(f"… {len(verdict.findings)} findings in all")
    return "\n".join(lines)


# A broken build may give one for every message.
FINDINGS_SHOWN_MAX = 40
