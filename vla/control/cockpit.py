"""What an operator's page may do to a running loop."""

from vla.control.guard import Guard
from vla.control.loop import Loop
from vla.control.operator import Snapshot
from vla.control.severity import State
from vla.control.steering import Steering
from vla.control.stepping import Stepping
from vla.control.words import UnknownWords, WordsRefusedError, admit_words


class Cockpit:
    """Connects a loop to its page; see `operator.Operated`."""

    def __init__(
        self,
        loop: Loop,
        guard: Guard,
        steering: Steering,
        unknown_words: UnknownWords | None,
        simulated: bool,
    ) -> None:
        """unknown_words: asks whoever reads instructions, see `stepping.who_reads`; simulated: no arm can be hurt."""
        self._loop, self._guard, self._steering = loop, guard, steering
        self._unknown_words, self._simulated = unknown_words, simulated

    def snapshot(self) -> Snapshot | None:
        """Return the present moment, None before there is one."""
        latest = self._loop.latest
        if latest is None or latest.observation is None:
            return None
        summary = self._loop.summary
        joints = [None] * len(self._guard.embodiment.joints) if latest.joints is None else latest.joints.tolist()
        finished = self._steering.hierarchy.finished if isinstance(self._steering, Stepping) else []
        return Snapshot(
            state=latest.status.state.name,
            reasons=latest.status.reasons,
            joints=joints,
            command=joints if latest.command is None else latest.command.tolist(),
            instruction=latest.observation.instruction,
            subtask=latest.text or "",
            finished=[skill.text for skill in finished],
            progress=latest.progress,
            done=latest.done,
            takeover=latest.taken_over,
            age_s=self._loop.age_s,
            ticks=summary.ticks,
            missed=self._loop.missed,
            interventions=summary.interventions,
            images=latest.observation.images,
        )

    def estop(self, reason: str) -> None:
        """Brake and hold, latched; the run goes on, so that it can be cleared."""
        self._guard.estop(reason)

    def clear(self) -> None:
        """Acknowledge what happened, and engage anew where the arm is."""
        self._guard.acknowledge()
        self._loop.engage()

    def instruct(self, text: str) -> str:
        """Carry out other words from now on; return why not."""
        try:
            words = admit_words(text, self._unknown_words)
        except WordsRefusedError as refused:
            return str(refused)
        except Exception as error:  # the border to what nobody trusts, see inference.py: a server that is away
            return f"the policy cannot be asked about these words, nothing has changed: {error}"
        if isinstance(self._steering, Stepping):
            self._steering.once_more()
        self._loop.instruct(words)
        return ""

    def takeover(self, on: bool) -> str:
        """Let the operator move the joints instead of the policy, or give them back; return why not."""
        if on and not self._simulated:
            return "a real arm is not moved by keyboard: use a leader arm"
        latest = self._loop.latest
        if on and latest is not None and latest.status.state > State.HOLD:
            return f"the arm is stopped ({latest.status.state.name}): clear that first"
        (self._loop.take_over if on else self._loop.give_back)()
        return ""

    def jog(self, joint: int, by: float) -> None:
        """Move the target of one joint; only under takeover."""
        self._loop.jog(joint, by)

    def take(self, what: str) -> str:
        """Say that there is one episode only, the whole run."""
        return "this run is one episode, recorded as it is; vla record records several"
