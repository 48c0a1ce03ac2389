"""The button's lamp: its collar lights up when the button was pressed long enough, and stays on.

Without it nothing in the picture would tell a button that was pressed from one that was only touched.
"""

import mujoco

PRESSED, PRESS_STEPS = 0.6, 3  # share of the travel, and control steps in a row for which it must be down: 0.3 s
_COLLAR = ("button_base", "button_ring")
_MATERIAL = "collar"
_DARK, _LIT = (0.25, 0.25, 0.27, 1.0), (1.0, 0.93, 0.65, 1.0)


class Lamp:
    """Follows the button and colours its collar in the model."""

    def __init__(self, model: mujoco.MjModel, lit: bool = False) -> None:
        self._model, self._down_steps = model, 0
        self._show(lit)

    def update(self, travel: float) -> None:
        """Take how far the button is down, 0..1; call it once a control step."""
        self._down_steps = self._down_steps + 1 if travel >= PRESSED else 0
        if self._down_steps >= PRESS_STEPS and not self.lit:
            self._show(True)

    def _show(self, lit: bool) -> None:
        self.lit = lit
        for name in _COLLAR:
            self._model.geom_rgba[self._model.geom(name).id] = _LIT if lit else _DARK
        self._model.mat_emission[self._model.material(_MATERIAL).id] = float(lit)
