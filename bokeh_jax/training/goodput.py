"""Goodput: the share of a run's time, since its first start, that made steps which count.

Process 0 appends what happens to `<workdir>/goodput.jsonl`, over all restarts:

    start   a process began                       {"event": "start", "time": ...}
    loop    steps begin, after so many updates    {..., "step": 0, "seconds": {"compile": ...}}
    steps   so many updates are done now          {..., "step": 20, "seconds": {"checkpoint": ...}}
    end     the process left in good order        likewise

Every second between the first start and the last event belongs to one of `CATEGORIES`. Time between
two events goes to what the later one names in `seconds`; the rest of it goes

    to a `start`    to `down`: since the process before was last heard of. What it did after its
                    last report, and was lost when it was killed, is in here.
    to a `loop`     to `startup`
    to `steps`      to `steps`, which is goodput
    to an `end`     to `shutdown`

A `loop` that begins before steps already made (a restart from an earlier checkpoint) moves those
steps to `repeated`, in proportion where it begins amid an interval.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.accounting import Spent
from bokeh_jax.training.writers import append_line, trimmed_lines

GOODPUT_FILE = "goodput.jsonl"
CATEGORIES = {
    "steps": "steps that count",
    "repeated": "steps made again after a restart",
    "data_wait": "the device waited for data",
    "checkpoint": "the loop waited for saves",
    "panel": "pictures",
    "startup": "starting and restoring",
    "compile": "compiling",
    "shutdown": "leaving",
    "down": "between processes",
}
Kind = Literal["start", "loop", "steps", "end"]
_REST: dict[Kind, str] = {"start": "down", "loop": "startup", "steps": "steps", "end": "shutdown"}


@dataclasses.dataclass(frozen=True)
class Event:
    """One line of the record.

    Attributes:
        kind: what happened; the other fields are as the module's header says.
        time: seconds since 1970.
        step: updates done; of a `start`, not known yet.
        seconds: of the time since the event before, by category.
    """

    kind: Kind
    time: float
    step: int = 0
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Ledger:
    """Adds events up."""

    def __init__(self):
        """Nothing has happened yet."""
        self._seconds = dict.fromkeys(CATEGORIES, 0.0)
        # (updates before, updates after, seconds) of `steps` that may yet have to be repeated.
        self._made: list[tuple[int, int, float]] = []
        self._last: Event | None = None
        self._step = 0

    def add(self, event: Event) -> None:
        """Accounts for the time since the event before."""
        # Clocks of two machines, or one that was set back, may disagree: no time is negative.
        passed = max(0.0, event.time - self._last.time) if self._last is not None else 0.0
        named = sum(event.seconds.values())
        # The parts come from another clock than their sum: they never exceed it.
        scale = min(1.0, passed / named) if named > 0 else 1.0
        for category, seconds in event.seconds.items():
            self._seconds[category] += scale * seconds
        rest = passed - scale * named
        self._seconds[_REST[event.kind]] += rest
        if event.kind == "loop":
            self._move_repeated(event.step)
            self._step = event.step
        elif event.kind == "steps":
            self._made.append((self._step, event.step, rest))
            self._step = event.step
        self._last = event

    def _move_repeated(self, step: int) -> None:
        """Steps after `step` will be made again."""
        while self._made and self._made[-1][1] > step:
            before, after, seconds = self._made.pop()
            lost = seconds * min(1.0, (after - step) / max(after - before, 1))
            self._seconds["steps"] -= lost
            self._seconds["repeated"] += lost
            if before < step:
                self._made.append((before, step, seconds - lost))

    @property
    def seconds(self) -> dict[str, float]:
        """By category; their sum is the time from the first event to the last."""
        return dict(self._seconds)

    @property
    def percent(self) -> dict[str, float]:
        """Shares of the time, by category; of no time at all, zeros."""
        total = sum(self._seconds.values())
        return {name: 100.0 * part / total if total else 0.0 for name, part in self.seconds.items()}


class GoodputRecord:
    """The run's record: reads what earlier processes left, appends what this one does.

    Attributes:
        ledger: all of it, added up.
    """

    def __init__(self, path: Path, started: float, clock: Callable[[], float] = time.time):
        """Note the start of this process.

        Args:
            path: the file; made if it is missing.
            started: when this process began, seconds since 1970.
            clock: seconds since 1970.

        Raises:
            InvalidInput: the file holds something else than a record.
        """
        self._path, self._clock = path, clock
        self.ledger = Ledger()
        for number, line in enumerate(trimmed_lines(path), start=1):
            try:
                self.ledger.add(_from_line(line))
            except (KeyError, TypeError, AttributeError, ValueError):
                raise InvalidInput(
                    f"{path}, line {number} is {str(line)[:80]}; allowed: the lines that a run "
                    "writes (docs/observability.md), or no such file"
                ) from None
        self._note(Event("start", started))

    def _note(self, event: Event) -> None:
        self.ledger.add(event)
        line: dict[str, Any] = {"event": event.kind, "time": round(event.time, 3)}
        if event.kind != "start":
            line |= {"step": event.step}
            line |= {"seconds": {name: round(part, 4) for name, part in event.seconds.items()}}
        append_line(self._path, line)

    def loop_begins(self, step: int, *, compile_seconds: float) -> None:
        """Steps begin after `step` updates."""
        self._note(Event("loop", self._clock(), step, {"compile": compile_seconds}))

    def steps_done(self, step: int, spent: Spent) -> None:
        """`step` updates are done; `spent` is of the time since the last call."""
        self._note(Event("steps", self._clock(), step, _by_category(spent)))

    def ends(self, step: int) -> None:
        """All is saved and closed."""
        self._note(Event("end", self._clock(), step))

    @property
    def goodput_percent(self) -> float:
        """Share of the time from the first start to the last event."""
        return self.ledger.percent["steps"]

    def summary(self) -> str:
        """One line on where the time went, largest part first; parts below 0.05 % are left out."""
        percent, total = self.ledger.percent, sum(self.ledger.seconds.values())
        parts = [
            f"{CATEGORIES[name]} {share:.1f} %"
            for name, share in sorted(percent.items(), key=lambda item: -item[1])
            if share >= 0.05 and name != "steps"
        ]
        return (
            f"goodput {percent['steps']:.1f} % of {total:.0f} s since the first start"
            + ("; " if parts else "")
            + ", ".join(parts)
        )


def _by_category(spent: Spent) -> dict[str, float]:
    return {
        "data_wait": spent.starved_seconds,
        "checkpoint": spent.checkpoint_seconds,
        "panel": spent.panel_seconds,
    }


def _from_line(line: Mapping[str, Any]) -> Event:
    seconds = {name: float(line["seconds"][name]) for name in line.get("seconds", {})}
    if unknown := seconds.keys() - CATEGORIES.keys():
        raise ValueError(unknown)
    kinds: dict[str, Kind] = {kind: kind for kind in _REST}
    return Event(kinds[line["event"]], float(line["time"]), int(line.get("step", 0)), seconds)
