"""The rules of redrives: each dead letter comes back to its queue once, and none is lost.

A message has several lives: it was sent, and it comes again by each redrive. In each it has a place
in its queue, and may come to have one among the dead letters, whose headers name that place. Which
life it is, both tell: how often the message was sent back before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from e2e.history import attempts, delivery
from e2e.history.events import Action, Outcome
from e2e.history.history import DeadLetterRecord, History, Position

if TYPE_CHECKING:  # It gathers these rules.
    from e2e.history.checker import Settings

_Found = Iterator[tuple[float, str, str, str]]


class _Life(NamedTuple):
    """A life of a message, by where it is sent to, what it is, and how often it was redriven."""

    target: str
    id: str
    redrives: int

    @property
    def next(self) -> _Life:
        return self._replace(redrives=self.redrives + 1)


def _lives(history: History) -> dict[_Life, list[Position]]:
    """The places of each life in its queue."""
    lives: dict[_Life, list[Position]] = {}
    for (target, value), places in delivery.places_of(history).items():
        for place in sorted(places):
            redrives = history.redrives_at.get(place, 0)
            lives.setdefault(_Life(target, value, redrives), []).append(place)
    return lives


def _life_of(dead: DeadLetterRecord) -> _Life:
    return _Life(dead.origin.target, dead.id, dead.facts.redrives)


def redriven_twice(history: History, settings: Settings) -> _Found:
    """What died once and was sent back is in its queue once for that."""
    for life, places in _lives(history).items():
        if life.redrives and len(places) > 1 and _landed_once(history, life, settings):
            seen = history.values[places[-1]][life.id]
            yield (
                seen.at,
                seen.client,
                life.id,
                f"{life.id} came back to {life.target} by redrive {life.redrives} and is there "
                f"{len(places)} times at {seen.at:.3f} s: {', '.join(map(str, places))}",
            )


def handled_beside(history: History, settings: Settings) -> _Found:
    """What was sent back is gone from where it was: nobody is given it there, or handles it."""
    lives = _lives(history)
    stays = [(life, place) for life, places in lives.items() for place in places]
    stays += [(_life_of(dead), dead.position) for dead in history.dead_at.values()]
    for life, place in stays:
        again = lives.get(life.next, ())
        if not again or not _landed_once(history, life, settings):
            continue
        back = min(history.values[one][life.id].at for one in again)
        for lease in history.leases_at.get(place, ()):
            acked = attempts.settled(lease, Action.ACK, settings)
            if lease.begin > back or acked:
                yield (
                    lease.end,
                    lease.client,
                    life.id,
                    f"{life.id} of {place} was {'acked' if acked else 'delivered'} by "
                    f"{lease.client}, whose lease is of {lease.end:.3f} s, and is back in "
                    f"{life.target} by redrive {life.redrives + 1}, where it was seen by "
                    f"{back:.3f} s",
                )


def lost_by_a_redrive(history: History, settings: Settings) -> _Found:
    """When all is empty, each dead letter was handled as such, or has come back to its queue."""
    missing: dict[_Life, list[DeadLetterRecord]] = {}
    for dead in history.dead_at.values():
        leases = history.leases_at.get(dead.position, ())
        if not any(one.acks for one in leases):
            missing.setdefault(_life_of(dead), []).append(dead)
    lives = _lives(history)
    for life, dead_letters in missing.items():
        back = len(lives.get(life.next, ()))
        if back < len(dead_letters) and all(_all_is_known(history, one) for one in dead_letters):
            dead = dead_letters[-1]
            drained = history.drained[dead.position.target]
            yield (
                dead.seen.end,
                dead.seen.client,
                dead.id,
                f"{dead.id} was seen by {dead.seen.client} at {dead.seen.end:.3f} s as "
                f"{dead.position}, was not handled there and is not back in {life.target}, though "
                f"both were empty at {drained.at:.3f} s",
            )


def _all_is_known(history: History, dead: DeadLetterRecord) -> bool:
    """Whether both queues were emptied by workers alone."""
    for target in (dead.position.target, dead.origin.target):
        drained = history.drained.get(target)
        if drained is None or drained.left:
            return False
    purges = history.purges_of.get(dead.origin.target, ())
    purged = any(
        one.outcome is not Outcome.REFUSED
        and (one.end > dead.seen.begin or one.outcome is Outcome.UNKNOWN)
        for one in purges
    )
    return not purged and not ends_unknown(history, dead.position.target)


def ends_unknown(history: History, dead_letter: str) -> bool:
    """Whether a redrive may have gone on after all that is in the history."""
    return any(one.state != "done" for one in history.redrives_of.get(dead_letter, ()))


def more_than_told(history: History, settings: Settings) -> _Found:
    """No more messages come back than the redrives told of at their end."""
    back = Counter(
        history.queues[life.target].dead_letter
        for life, places in _lives(history).items()
        for _ in places
        if life.redrives and life.target in history.queues
    )
    for dead_letter, count in back.items():
        drained = history.drained.get(dead_letter)
        told = sum(one.done for one in history.redrives_of.get(dead_letter, ()))
        if drained is not None and count > told and not ends_unknown(history, dead_letter):
            yield (
                drained.at,
                "",
                dead_letter,
                f"{count} messages came back from {dead_letter} by {drained.at:.3f} s, and its "
                f"redrives told of {told}",
            )


def not_ended(history: History, settings: Settings) -> _Found:
    """A redrive goes on by itself and comes to its end."""
    for redrives in history.redrives_of.values():
        for one in redrives:
            if one.state not in ("", "done"):
                yield (
                    one.end,
                    one.client,
                    one.target,
                    f"the redrive of {one.target} by {one.client}, begun at {one.begin:.3f} s, is "
                    f"{one.state!r} at {one.end:.3f} s",
                )


def _landed_once(history: History, life: _Life, settings: Settings) -> bool:
    sends = history.by_id.get((life.target, life.id), [])
    return bool(sends) and delivery.landed_once(history, sends, settings)
