"""One live line in the terminal for every running episode, and a final one when it ends."""

from types import TracebackType

from tqdm import tqdm

from vla.evaluate.episodes import Episode


class Lines:
    """Progress bars that follow what the policy says about its subtask."""

    def __init__(self) -> None:
        self._bars: dict[int, tqdm] = {}

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for bar in self._bars.values():
            bar.close()

    def update(self, episode: Episode) -> None:
        """Show the predicted progress, the time and the present subtask."""
        if id(episode) not in self._bars:
            self._bars[id(episode)] = tqdm(
                total=100, bar_format="  {desc} {bar:24}{postfix}", leave=False, mininterval=0.1, dynamic_ncols=True
            )
        bar = self._bars[id(episode)]
        latest = episode.predictions[-1] if episode.predictions else None
        bar.n = round(100 * min(max(latest.progress or 0.0, 0.0), 1.0)) if latest else 0
        bar.set_description_str(f"{episode.instruction[:56]:56}", refresh=False)
        subtask = latest.subtask if latest and episode.case.stepping else ""
        bar.set_postfix_str(f"{episode.steps:4d} steps  {subtask}", refresh=True)

    def close(self, episode: Episode, words: str) -> None:
        """Replace the live line by the last word on the episode."""
        bar = self._bars.pop(id(episode), None)
        if bar is not None:
            bar.close()
        tqdm.write(f"  {'✔' if episode.success else '✘'} {episode.case.task}: {words}")
