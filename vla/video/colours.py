"""Colours that have a name, and shapes that a mask tells."""

import cv2
import numpy as np

# Hues of OpenCV (0..179), from and until before; red goes round the end. Black and white are told by no hue.
HUES = {"red": ((0, 7), (170, 180)), "orange": ((7, 19),), "yellow": ((19, 36),), "green": ((36, 85),)}
HUES |= {"blue": ((98, 131),), "purple": ((131, 170),)}
SATURATED, BRIGHT = 90, 45  # least saturation and value of a colour that can be named [of 255]
LEAST_SHARE = 0.0012  # of the picture that a thing covers which counts as moved, half a cube in our world
SMALL_SHARE = 0.012  # at most this much of the picture is covered by a thing that can be grasped in our world
SQUARE, ROUND = 0.86, 0.81  # what fills more, or less, of its smallest rectangle is a box, or a disc


def hues(image: np.ndarray) -> np.ndarray:
    """Return the hue int16[h, w] of each pixel, -1 where it has none that can be named."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    return np.where((saturation >= SATURATED) & (value >= BRIGHT), hue.astype(np.int16), -1)


def squareness(mask: np.ndarray) -> float:
    """Return the share of its smallest rectangle that a thing bool[h, w] fills: 1 for a box, 0.79 for a disc."""
    points = np.argwhere(mask).astype(np.float32)
    _, sides, _ = cv2.minAreaRect(points)
    return float(len(points) / ((sides[0] + 1) * (sides[1] + 1)))
