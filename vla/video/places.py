"""Where a thing was, as a table that needs 24 bytes a row."""

from array import array

import numpy as np

COLUMNS = 4  # middle x, y, width, height [widths of the picture]


class Places:
    """Rows of (time, x, y, width, height), in the order of time."""

    def __init__(self) -> None:
        self._time_s, self._place = array("d"), array("f")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._time_s)

    def add(self, time_s: float, place: tuple[float, float, float, float]) -> None:
        """Append a row."""
        self._time_s.append(time_s)
        self._place.extend(place)

    def thin(self) -> None:
        """Drop every second row; the first one stays."""
        time_s, place = self.tables()
        self._time_s, self._place = array("d", time_s[::2].tobytes()), array("f", place[::2].tobytes())

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies: float64[K] [s], float32[K, COLUMNS]."""
        return np.array(self._time_s, np.float64), np.array(self._place, np.float32).reshape(-1, COLUMNS)
