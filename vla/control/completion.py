"""When is a subtask over: the completion output of the policy, believed only after k predictions agree."""


class Completion:
    """Count predictions in a row that say "done", and declare the subtask complete at the k-th."""

    def __init__(self, *, k: int, threshold: float):
        """Take k agreeing predictions in a row, each a probability of at least `threshold`."""
        if k < 1 or not 0.0 < threshold < 1.0:
            raise ValueError(f"k={k}, threshold={threshold}: k must be at least 1 and the threshold inside 0..1")
        self.k = k
        self.threshold = threshold
        self.agreeing = 0

    def update(self, done: float | None) -> bool:
        """Feed the `done` probability of one chunk; return whether the subtask is declared complete."""
        if done is None:
            raise ValueError("the policy predicts no `done`; stepping through subtasks needs a completion output")
        self.agreeing = self.agreeing + 1 if done >= self.threshold else 0
        return self.agreeing >= self.k

    @property
    def pending(self) -> bool:
        """Whether a declaration waits for more agreeing predictions."""
        return 0 < self.agreeing < self.k

    def reset(self) -> None:
        """Forget all predictions, for the next subtask."""
        self.agreeing = 0
