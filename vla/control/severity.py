"""How bad it is: the states of the guard, and the alarms of which the worst one decides.

An alarm is sounded in every tick in which its cause is present. It stays until the cause has been gone for a while
without a break; from HOLD up until the arm is at rest too, and from STOP1 up until a human has acknowledged it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from queue import Empty, SimpleQueue

from vla.control.journal import Journal


class State(IntEnum):
    """What the guard lets happen, in order of severity."""

    IDLE = 0  # not engaged: nothing is sent
    ENGAGING = 1  # holds the pose until a command meets it, or approaches the command slowly where that was asked for
    NORMAL = 2  # follows commands
    DEGRADED = 3  # follows the commands that it can; something is wrong
    HOLD = 4  # brakes and holds, goes on by itself when the cause is gone
    STOP1 = 5  # brakes and holds until a human acknowledges
    ESTOP = 6  # the same, and must be engaged anew


@dataclass
class Alarm:
    """One cause at one severity."""

    name: str
    state: State
    reason: str  # the latest
    clear_ticks: int = 0  # since the cause was last present
    acknowledged: bool = False


class Alarms:
    """All alarms that have not cleared; `level` is the worst of them.

    `post` takes requests from any thread or signal handler; everything else belongs to the thread of the ticks.
    """

    def __init__(self, clear_ticks: int, journal: Journal):
        """Release an alarm after so many ticks without its cause; write down when one begins."""
        self._clear_ticks, self._journal = clear_ticks, journal
        self._alarms: dict[tuple[str, State], Alarm] = {}
        self._standing: dict[str, tuple[State, str]] = {}
        self._inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()  # may be written to while it is being read
        self._now_s = 0.0

    def post(self, request: Callable[..., object], *arguments: object) -> None:
        """Have a method of this object called when the next tick begins."""
        self._inbox.put(partial(request, *arguments))

    def begin(self, now_s: float) -> None:
        """Begin a tick: answer requests, sound what stands."""
        self._now_s = now_s
        while True:
            try:
                request = self._inbox.get_nowait()
            except Empty:
                break
            request()
        for name, (state, reason) in self._standing.items():
            self.sound(name, state, reason, counts=False)

    def sound(self, name: str, state: State, reason: str, counts: bool = True) -> None:
        """Report a cause that is present in this tick; counts: whether a rule of the guard has found it."""
        alarm = self._alarms.get((name, state))
        if alarm is None:
            self._alarms[name, state] = Alarm(name, state, reason)
            self._journal.note(name, reason, self._now_s, counts)
        else:
            alarm.reason, alarm.clear_ticks, alarm.acknowledged = reason, 0, False

    def refuse(self, rule: str, reason: str, state: State = State.DEGRADED) -> None:
        """Report a command that is not followed; each one is counted."""
        if (rule, state) in self._alarms:
            self._journal.note(rule, reason, self._now_s)
        self.sound(rule, state, reason)

    def stand(self, name: str, state: State, reason: str) -> None:
        """Sound what another monitor says in this tick and all that follow, until `withdraw`."""
        self._standing[name] = state, reason
        self.sound(name, state, reason, counts=False)

    def withdraw(self, name: str) -> None:
        """End what stands under a name, if anything does."""
        self._standing.pop(name, None)

    def acknowledge(self) -> None:
        """Let go of what needs a human once its cause is gone; a cause that comes back needs another time."""
        for alarm in self._alarms.values():
            alarm.acknowledged = True

    def settle(self, at_rest: bool) -> State:
        """End a tick in which all causes were sounded: release what has cleared, return the level."""
        for key, alarm in list(self._alarms.items()):
            cleared = alarm.clear_ticks > self._clear_ticks and (at_rest or alarm.state < State.HOLD)
            alarm.clear_ticks += 1
            if cleared and (alarm.acknowledged or alarm.state < State.STOP1):
                del self._alarms[key]
        return self.level

    @property
    def level(self) -> State:
        """The worst alarm's state, IDLE without any."""
        return max((alarm.state for alarm in self._alarms.values()), default=State.IDLE)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is wrong, one text an alarm, the worst first."""
        alarms = sorted(self._alarms.values(), key=lambda alarm: -alarm.state)
        return tuple(f"{alarm.name}: {alarm.reason}" for alarm in alarms)
