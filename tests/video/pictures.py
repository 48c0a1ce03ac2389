"""Drawn things that detectors take for real ones: a face, a number plate, a sign with words."""

import cv2
import numpy as np

SHAPE = (192, 256, 3)


def ground(seed: int = 0) -> np.ndarray:
    """Fields of grey, uint8[192, 256, 3]."""
    fields = np.random.default_rng(seed).integers(90, 200, (9, 12, 1)).astype(np.uint8).repeat(3, axis=2)
    return cv2.resize(fields, SHAPE[1::-1], interpolation=cv2.INTER_NEAREST)


def with_face(image: np.ndarray, x: int, y: int, height: int) -> np.ndarray:
    """Draw a face of so many pixels of height, its middle at (x, y)."""
    side, skin = 400, (205, 165, 140)
    face, mask, middle = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8), (200, 200)
    cv2.ellipse(face, middle, (75, 98), 0, 0, 360, skin, -1)
    cv2.ellipse(face, (200, 138), (78, 50), 0, 180, 360, (50, 35, 25), -1)
    for way in (-1, 1):
        cv2.ellipse(face, (200 + way * 32, 184), (20, 12), 0, 0, 360, (150, 110, 95), -1)
        cv2.ellipse(face, (200 + way * 32, 186), (15, 8), 0, 0, 360, (240, 240, 240), -1)
        cv2.circle(face, (200 + way * 32, 186), 8, (40, 25, 20), -1)
        cv2.ellipse(face, (200 + way * 32, 164), (22, 6), 0, 180, 360, (60, 40, 30), -1)
    cv2.ellipse(face, (200, 208), (9, 32), 0, 0, 360, (220, 182, 158), -1)
    cv2.ellipse(face, (200, 234), (16, 6), 0, 0, 180, (150, 105, 90), -1)
    cv2.ellipse(face, (200, 260), (28, 8), 0, 0, 360, (150, 70, 70), -1)
    cv2.ellipse(mask, middle, (78, 106), 0, 0, 360, 255, -1)
    scale = height / 200
    shift = np.array([[scale, 0, x - scale * 200], [0, scale, y - scale * 200]], np.float32)
    face = cv2.warpAffine(cv2.GaussianBlur(face, (0, 0), 3), shift, SHAPE[1::-1], flags=cv2.INTER_AREA)
    inside = cv2.warpAffine(mask, shift, SHAPE[1::-1]) > 127
    drawn = image.copy()
    drawn[inside] = face[inside]
    return drawn


def with_plate(image: np.ndarray, x: int, y: int, width: int) -> np.ndarray:
    """Draw a Russian number plate of so many pixels of width, its upper left corner at (x, y)."""
    plate = np.full((152, 560, 3), 60, np.uint8)
    cv2.rectangle(plate, (20, 20), (540, 132), (250, 250, 250), -1)
    cv2.rectangle(plate, (24, 24), (536, 128), (10, 10, 10), 4)
    cv2.putText(plate, "A 123 BC", (45, 108), cv2.FONT_HERSHEY_SIMPLEX, 2.6, (10, 10, 10), 9, cv2.LINE_AA)
    cv2.putText(plate, "77", (435, 90), cv2.FONT_HERSHEY_SIMPLEX, 1.8, (10, 10, 10), 7, cv2.LINE_AA)
    small = cv2.resize(plate, (width, round(width * 152 / 560)), interpolation=cv2.INTER_AREA)
    drawn = image.copy()
    drawn[y : y + small.shape[0], x : x + width] = small
    return drawn


def with_sign(image: np.ndarray, words: str, y: int, size: float = 0.4) -> np.ndarray:
    """Write words across a white sign whose middle is at height y."""
    drawn = image.copy()
    cv2.rectangle(drawn, (4, y - 14), (252, y + 14), (245, 245, 245), -1)
    cv2.putText(drawn, words, (10, y + 5), cv2.FONT_HERSHEY_SIMPLEX, size, (10, 10, 10), 1, cv2.LINE_AA)
    return drawn
