"""One joint that can always stop: its next command never breaks a limit, nor does coming to rest from there.

The limits hold for the differences of the commands themselves: with one command a tick, speed is the difference of two
positions, acceleration that of two speeds, jerk that of two accelerations. The law of braking is this: in every tick
push against the motion as hard as jerk and acceleration allow, but never so hard that easing off again would reverse
it. From there follows, in closed form, where the joint comes to rest and how far it gets on the way. A joint whose
braking stays inside all limits can brake in the next tick too, and that braking is the rest of the first; so whatever
is asked for, an acceleration is only taken if braking after it stays inside, and else the joint brakes.

Inside this file the unit of length is the distance by which the largest jerk moves a joint in one tick (jerk * dt^3),
and the unit of time is the tick. The largest jerk is then 1, and so is the most that an acceleration may change.
"""

from math import copysign, floor, inf, sqrt

KEEP = 1 - 1e-6  # of each limit: what rounding may cost the judge who takes differences of commands
EXACT = 1e-13  # [rad]; two positions closer than this are one
CLOSE_ENOUGH = 0.01  # of the way to the goal may be left for the next tick to decide
TRIALS = 8  # of an acceleration in one tick at most


class Joint:
    """Plans one tick at a time, `plan` and then `advance`; positions in [rad] or in the gripper's unit.

    position: the command. rest: where braking from now on ends. next_position, next_rest: both after `advance`.
    at_rest: whether it stands still, and will if it is not asked to move.
    """

    def __init__(self, low: float, high: float, speed: float, acceleration: float, jerk: float, hz: float):
        """Take the limits in SI units and the number of ticks a second."""
        self._low, self._high = low, high
        self._unit = KEEP * jerk / hz**3
        self._speed_max = KEEP * speed / hz / self._unit
        self._acceleration_max = KEEP * acceleration / hz**2 / self._unit
        self._easing = _eased(self._acceleration_max)
        self.place(low)

    def place(self, position: float) -> None:
        """Be at rest at a position."""
        self.position = self.rest = self.next_position = self.next_rest = position
        self._speed = self._acceleration = self._next_acceleration = 0.0
        self.at_rest = True

    def plan(self, goal: float | None, speed_share: float = 1.0) -> bool:
        """Plan a tick towards a goal, never beyond it, or of braking; say whether anything but braking was planned.

        `goal` lies inside the position limits. `speed_share` 0..1 of the largest speed may be used.
        """
        speed = self._speed
        braking = 0.0 if self.at_rest else self._braking(speed, self._acceleration)
        self._next_acceleration, self.next_rest = braking, self.rest
        if goal is not None and abs(goal - self.rest) > EXACT:
            self._hurry(goal, braking, speed_share * self._speed_max)
        position = self.position + (speed + self._next_acceleration) * self._unit
        self.next_position = min(max(position, self._low), self._high)  # only rounding is cut off here
        return self._next_acceleration != braking

    def braked(self, ticks: float) -> float:
        """Return the position after the planned tick and so many ticks of braking."""
        way, _ = self._stopping(self._speed + self._next_acceleration, self._next_acceleration, ticks)
        return self.next_position + way * self._unit

    @property
    def stopping_ticks(self) -> float:
        """Estimate how long braking takes after the planned tick: as if with the same acceleration all the time."""
        speed = (self._speed + self._next_acceleration) * self._unit
        return 2 * (self.next_rest - self.next_position) / speed if speed else 0.0

    def advance(self) -> None:
        """Carry out what was planned."""
        self._acceleration = self._next_acceleration
        self._speed += self._acceleration
        self.position, self.rest = self.next_position, self.next_rest
        self.at_rest = self._speed == 0 and self._acceleration == 0

    def _hurry(self, goal: float, braking: float, speed_max: float) -> None:
        """Replace braking by the acceleration after which braking ends as close before the goal as possible.

        Where braking ends grows with the acceleration; so this closes in from both sides, `good` and `bad`, on the
        largest one that is allowed. To read it, think of a goal ahead, the other direction is its mirror image.
        """
        ahead = 1.0 if goal > self.rest else -1.0
        speed, acceleration = ahead * self._speed, ahead * self._acceleration
        way = ahead * (goal - self.position) / self._unit
        above, below = (self._high, self._low) if ahead > 0 else (self._low, self._high)
        room = ahead * (above - self.position) / self._unit
        room_behind = ahead * (below - self.position) / self._unit
        slack = EXACT / self._unit
        most = min(acceleration + 1, self._acceleration_max, _last_push(max(speed_max - speed, 0.0)))
        good, good_end = ahead * braking, ahead * (self.rest - self.position) / self._unit
        enough = way - CLOSE_ENOUGH * (way - good_end)
        bad, bad_end = most, good_end
        trial = most
        for _ in range(TRIALS if most > good else 0):
            next_speed = speed + trial
            end, turn = self._stopping(next_speed, trial)
            end, turn = end + next_speed, turn + next_speed
            inside = max(turn, next_speed) <= room + slack and min(turn, end) >= room_behind - slack
            if end <= way + slack and inside:
                good, good_end = trial, end
                if trial == most or end >= enough:
                    break
            else:
                bad, bad_end = trial, end
            share = (way - good_end) / (bad_end - good_end) if bad_end > way else 0.5
            trial = good + share * (bad - good)
        self._next_acceleration = ahead * good
        self.next_rest = self.position + ahead * good_end * self._unit

    def _braking(self, speed: float, acceleration: float) -> float:
        """Return the next acceleration of a joint that brakes."""
        wanted = -copysign(_last_push(abs(speed)), speed)
        least = max(acceleration - 1, -self._acceleration_max)
        return min(max(wanted, least), acceleration + 1, self._acceleration_max)

    def _stopping(self, speed: float, acceleration: float, ticks: float = inf) -> tuple[float, float]:
        """Return how far braking from this state leads in so many ticks, and how far away it turns back, else 0.

        It is what repeating `_braking` adds up to: ticks of full jerk against the motion, ticks of full acceleration,
        and from then on the acceleration eased off by the full jerk.
        """
        if speed + copysign(_eased(abs(acceleration)), acceleration) < 0:  # eased off now, it would move backwards
            way, turn = self._stopping(-speed, -acceleration, ticks)
            return -way, -turn
        falling = floor(acceleration)  # ticks until the acceleration is gone; negative: since it was
        first = falling + 1 - acceleration  # what the first tick beyond zero takes from the speed
        peak = speed + falling * acceleration - falling * (falling + 1) / 2
        jerking = falling
        if peak >= first:
            beyond = min(sqrt(first * first + peak - first), self._acceleration_max)
            jerking += floor(beyond - first) + 1
        jerking = min(max(jerking, 0), ticks)
        way = jerking * (speed + (jerking + 1) * (acceleration / 2 - (jerking + 2) / 6))
        left = speed + jerking * (acceleration - (jerking + 1) / 2)
        pushing = min(max(floor((left - self._easing) / self._acceleration_max), 0), ticks - jerking)
        way += pushing * (left - self._acceleration_max * (pushing + 1) / 2)
        left = max(left - pushing * self._acceleration_max, 0.0)
        last = floor((sqrt(1 + 8 * left) - 1) / 2)
        easing = min(last, ticks - jerking - pushing)
        way += easing * (left - (easing + 1) * (left / (last + 1) / 2 + last / 4 - (easing - 1) / 6))
        if speed >= 0:
            return way, 0.0
        middle = acceleration - 0.5  # it still moves backwards, and turns once the speed has become positive
        backing = floor(middle - sqrt(max(middle * middle + 2 * speed, 0.0)))
        return way, backing * (speed + (backing + 1) * (acceleration / 2 - (backing + 2) / 6))


def _eased(acceleration: float) -> float:
    """Return what an acceleration >= 0 that is eased off by the full jerk, from the next tick on, adds to the speed."""
    ticks = floor(acceleration)
    return ticks * (acceleration - (ticks + 1) / 2)


def _last_push(speed: float) -> float:
    """Return the acceleration >= 0 that adds this much to the speed in all, itself and what easing it off adds."""
    ticks = floor((sqrt(1 + 8 * speed) - 1) / 2)
    return speed / (ticks + 1) + ticks / 2
