"""When a run is due: every so often, or as cron has it; times are UTC. A run that was missed is made up for once, however many were."""

from __future__ import annotations

from datetime import datetime, timedelta

from cronsim import CronSim, CronSimError

from pipeline.quantities import duration, plain
from pipeline.records import EPOCH
from pipeline.settings import SettingsError

MICROSECOND = timedelta(microseconds=1)


class Every:
    """On the grid of a length of time: every 6h is at 0, 6, 12 and 18 o'clock. Without a run on record one is due at once."""

    def __init__(self, text: str) -> None:
        try:
            self._us = duration(text)
        except ValueError as wrong:
            raise SettingsError(f"--every {plain(text)}: {wrong}") from wrong
        if self._us <= 0:
            raise SettingsError(f"--every {plain(text)}: allowed: more than nothing")

    def newest(self, now: int) -> int:
        """The newest due time that is not after now (us)."""
        return now - now % self._us

    def after(self, slot: int) -> int:
        """The next due time (us)."""
        return slot - slot % self._us + self._us

    def first(self, now: int) -> int:
        """The due time that counts as having had its run where none is on record."""
        return self.newest(now) - 1


class Cron:
    """As cron has it, five fields.

    >>> cron = Cron("0 3 * * *")
    >>> cron.newest(86_400_000_000) // 3_600_000_000, cron.after(86_400_000_000) // 3_600_000_000
    (3, 27)
    """

    def __init__(self, text: str) -> None:
        self._text = text
        try:
            CronSim(text, EPOCH)
        except CronSimError as wrong:
            raise SettingsError(f"--cron {plain(text)}: {wrong}; allowed: minute, hour, day, month, weekday, as in '0 3 * * *'") from wrong

    def newest(self, now: int) -> int:
        before = CronSim(self._text, at(now) + timedelta(minutes=1), reverse=True)  # a time that is due now is not before now
        return next(us for us in ((one - EPOCH) // MICROSECOND for one in before) if us <= now)

    def after(self, slot: int) -> int:
        return (next(CronSim(self._text, at(slot))) - EPOCH) // MICROSECOND

    def first(self, now: int) -> int:
        return self.newest(now)


Schedule = Every | Cron


def due(schedule: Schedule, now: int, done: int | None) -> int | None:
    """The due time whose run is to be made now; None: none is. `done`: the newest that has had one.

    >>> hour = 3_600_000_000
    >>> due(Every("6h"), 13 * hour, None) // hour, due(Every("6h"), 13 * hour, 12 * hour), due(Every("6h"), 31 * hour, 12 * hour) // hour
    (12, None, 30)
    """
    newest = schedule.newest(now)
    return newest if newest > (schedule.first(now) if done is None else done) else None


def at(us: int) -> datetime:
    return EPOCH + us * MICROSECOND
