"""One joint that can always stop: its next command never breaks a limit, nor does coming to rest from there.

The limits hold for the differences of the commands themselves: with one command a tick, speed is the difference of two
positions, acceleration that of two speeds, jerk that of two accelerations. The law of braking is this: in every tick
push against the motion as hard as jerk and acceleration allow, but never so hard that easing off again would reverse
it. From there follows, in closed form, where the joint comes to rest and how far it gets on the way. A joint whose
braking stays inside all limits can brake in the next tick too, and that braking is the rest of the first; so whatever
is asked for, an acceleration is only taken if braking after it stays inside, and else the joint brakes.

A goal that moves is followed as one that stands is approached, seen from a frame that moves along with it: the joint
then comes to rest beside the goal, not behind it. Whether it could still stop inside all limits is judged at rest.

Inside this file the unit of length is the distance by which the largest jerk moves a joint in one tick (jerk * dt^3),
and the unit of time is the tick. The largest jerk is then 1, and so is the most that an acceleration may change.
"""

from math import copysign, floor, inf, sqrt

KEEP = 1 - 1e-6  # of each limit: what rounding may cost the judge who takes differences of commands
EXACT = 1e-13  # [rad]; two positions closer than this are one
ON_COURSE = 1e-3  # of the unit below; a joint this close to where the goal was a tick ago goes where it is now
CLOSE_ENOUGH = 0.01  # of the way to the goal may be left for the next tick to decide
TRIALS = 5  # of an acceleration in one tick at most


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
        self._wanted = 0.0, position
        self.at_rest = True

    def plan(self, goal: float | None, speed_share: float = 1.0, goal_step: float = 0.0) -> bool:
        """Plan a tick towards a goal or of braking; say whether anything but braking was planned.

        `goal` lies inside the position limits; one that stands still is never passed. `goal_step` is how far it has
        moved within this tick, and is going to in the next. `speed_share` 0..1 of the largest speed may be used.
        """
        braking = 0.0 if self.at_rest else self._braking(self._speed, self._acceleration)
        self._next_acceleration, self.next_rest = braking, self.rest
        if goal is not None:
            speed_max = speed_share * self._speed_max
            way = (goal - self.position) / self._unit
            pace = min(max(goal_step / self._unit, -speed_max), speed_max)
            followed = pace != 0 and self._follow(way, pace, speed_max)
            if not followed and abs(goal - self.rest) > EXACT:
                self._hurry(way, braking, speed_max)
        self._wanted = self._next_acceleration, self.next_rest
        self._place_next()
        return self._next_acceleration != braking

    def decide(self, follow: bool) -> None:
        """Stay with what was planned, or brake after all; may be changed until `advance`."""
        if follow:
            self._next_acceleration, self.next_rest = self._wanted
        else:
            self._next_acceleration = 0.0 if self.at_rest else self._braking(self._speed, self._acceleration)
            self.next_rest = self.rest
        self._place_next()

    def _place_next(self) -> None:
        position = self.position + (self._speed + self._next_acceleration) * self._unit
        self.next_position = min(max(position, self._low), self._high)  # only rounding is cut off here

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

    def _follow(self, way: float, pace: float, speed_max: float) -> bool:
        """Plan to be where a goal is that moves, or to come closer to it; say no if braking could then leave the range.

        `way` is how far ahead the goal is at the end of this tick, `pace` how far it moves in a tick.
        """
        exactly = way - self._speed
        if abs(way - pace) <= ON_COURSE and self._within(exactly, speed_max):
            return self._take(exactly)
        ahead = copysign(1.0, way)
        most = self._most(ahead, speed_max)
        if ahead * pace > 0 and most > ahead * self._next_acceleration:
            end, inside = self._outcome(ahead * most, 0.0)
            if inside and ahead * end <= ahead * way:  # so far behind that it could even stop before the goal
                self._next_acceleration, self.next_rest = ahead * most, self.position + end * self._unit
                return True
        slowest = self._braking(self._speed - pace, self._acceleration)  # seen from the goal
        end, _ = self._outcome(slowest, pace)
        return self._take(self._closest(way, pace, speed_max, slowest, end)[0])

    def _take(self, acceleration: float) -> bool:
        """Plan an acceleration if braking after it stays inside the range, say no else."""
        end, inside = self._outcome(acceleration, 0.0)
        if inside:
            self._next_acceleration, self.next_rest = acceleration, self.position + end * self._unit
        return inside

    def _hurry(self, way: float, braking: float, speed_max: float) -> None:
        """Replace braking by the acceleration after which braking ends as close before a goal at rest as possible."""
        end = (self.rest - self.position) / self._unit
        self._next_acceleration, end = self._closest(way, 0.0, speed_max, braking, end)
        self.next_rest = self.position + end * self._unit

    def _within(self, acceleration: float, speed_max: float) -> bool:
        """Say whether the limits allow an acceleration now, and easing it off afterwards."""
        if abs(acceleration - self._acceleration) > 1 or abs(acceleration) > self._acceleration_max:
            return False
        ahead = copysign(1.0, acceleration)
        return abs(acceleration) <= _last_push(max(speed_max - ahead * self._speed, 0.0))

    def _most(self, ahead: float, speed_max: float) -> float:
        """Return the largest acceleration that the limits allow now in the direction `ahead`, +1 or -1."""
        push = _last_push(max(speed_max - ahead * self._speed, 0.0))
        return min(ahead * self._acceleration + 1, self._acceleration_max, push)

    def _closest(self, way: float, pace: float, speed_max: float, good: float, good_end: float) -> tuple[float, float]:
        """Return the acceleration after which braking to `pace` ends as close before the goal as possible, and where.

        `good` is an acceleration that is allowed, `good_end` where it leads. Where braking ends grows with the
        acceleration; so this closes in from both sides, `good` and `bad`, on the largest one that is allowed. To read
        it, think of a goal ahead, the other direction is its mirror image. Only for a goal at rest, pace 0, does it
        see to it that braking stays inside the range.
        """
        ahead = 1.0 if way > good_end else -1.0
        way, good, good_end = ahead * way, ahead * good, ahead * good_end
        slack = EXACT / self._unit
        most = self._most(ahead, speed_max)
        enough = way - CLOSE_ENOUGH * (way - good_end)
        trial = bad = most
        excess = 0.0
        for _ in range(TRIALS if most > good else 0):
            end, inside = self._outcome(ahead * trial, pace)
            end *= ahead
            if end <= way + slack and inside:
                good, good_end = trial, end
                if trial == most or end >= enough:
                    break
                excess /= 2  # so that the other side is tried too (the Illinois method)
            else:
                bad, excess = trial, end - way
            missing = way - good_end
            trial = good + (missing / (missing + excess) if excess > 0 else 0.5) * (bad - good)
        return ahead * good, ahead * good_end

    def _outcome(self, acceleration: float, pace: float) -> tuple[float, bool]:
        """Return where braking to `pace` ends after a tick of an acceleration, and, for pace 0, if it stays inside."""
        speed = self._speed + acceleration
        way, turn = self._stopping(speed - pace, acceleration)
        if pace:
            return speed + way, True
        highest = self.position + (speed + max(way, turn, 0.0)) * self._unit
        lowest = self.position + (speed + min(way, turn, 0.0)) * self._unit
        return speed + way, lowest >= self._low - EXACT and highest <= self._high + EXACT

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
