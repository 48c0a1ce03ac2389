"""Contact sheets: frames side by side, each stamped with its time, as models read videos best."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla.video.track import Track

TILE, COLUMNS, ROWS = 224, 5, 4  # side of a tile [px]; tiles of a sheet
STAMP = 0.12  # height of the time, of a tile's; smaller ones become unreadable when the model scales the sheet down
_QUALITY = 88


def sheets(track: Track, times_s: Sequence[float]) -> list[Image.Image]:
    """Return RGB sheets of the frames at these times, in order, COLUMNS x ROWS on each."""
    each = COLUMNS * ROWS
    return [_sheet(track, times_s[start : start + each]) for start in range(0, len(times_s), each)]


def _sheet(track: Track, times_s: Sequence[float]) -> Image.Image:
    columns, rows = min(COLUMNS, len(times_s)), -(-len(times_s) // COLUMNS)
    sheet = Image.new("RGB", (columns * TILE, rows * TILE))
    for number, time_s in enumerate(times_s):
        place = number % COLUMNS * TILE, number // COLUMNS * TILE
        sheet.paste(_tile(track.picture(time_s), f"{time_s:.2f} s"), place)
    return sheet


def still(image: np.ndarray, stamp: str) -> Image.Image:
    """Return one frame uint8[h, w, 3] RGB, stamped, twice as large as on a sheet."""
    return _tile(image, stamp, 2 * TILE)


def _tile(image: np.ndarray, stamp: str, side: int = TILE) -> Image.Image:
    """Fit a picture into a tile and stamp it at the top left, black on white."""
    tile = Image.new("RGB", (side, side))
    small = Image.fromarray(image)
    scale = side / max(small.size)
    small = small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))))
    tile.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(size=STAMP * TILE)
    pen.rectangle(pen.textbbox((3, 0), stamp, font=font), fill="white")
    pen.text((3, 0), stamp, fill="black", font=font)
    return tile


def jpeg_uri(image: Image.Image) -> str:
    """Return an image as a data address of a JPEG that holds nothing but its pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
