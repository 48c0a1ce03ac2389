"""A flag: one fault of a recording, how grave it is, where, and its numbers."""

from dataclasses import dataclass, field

ERROR, WARNING, NOTE = "error", "warning", "note"  # do not train on it; look at it; good to know
CODES = {  # code -> what it means
    "unreadable": "the clip cannot be read at all",
    "damaged": "parts of the file could not be decoded whole",
    "cut_off": "the file ends before the duration that it promises",
    "frozen": "the picture stands while something moves",
    "duplicated": "single frames repeat the one before while something moves",
    "jump": "the picture jumps as if frames were missing",
    "cut": "the picture changes altogether from one frame to the next",
    "black": "the picture is black",
    "white": "the picture is white",
    "blank": "the picture has one shade only",
    "blurred": "the picture is less sharp than this camera's usually is",
    "gap": "frames are missing between two time stamps",
    "backwards": "time stamps do not increase",
    "variable_rate": "the time between frames varies",
    "more_streams": "the file has further video streams, which are not read",
    "length": "the video has another number of frames than the table has rows",
    "row_gap": "rows are missing between two times of the table",
    "lag": "the camera and the state tell different times",
    "not_finite": "the state holds values that are not numbers",
    "state_frozen": "the state stands while the picture moves",
    "state_jump": "the state leaps away for a moment, or for good, as no arm can",
    "jerky": "the arm moves in jerks, against the other episodes",
    "static": "the arm stands most of the time",
    "idle_start": "nothing happens at the beginning",
    "idle_end": "nothing happens at the end",
    "outlier": "a figure is far from that of the other episodes",
    "crowded": "so many things are in sight that not all their places are kept",
    "orders": "text in the picture reads like orders to a model",
}


@dataclass(frozen=True)
class Flag:
    """One fault; `camera` is empty where it concerns the state or the whole item."""

    code: str  # a key of CODES
    severity: str  # ERROR, WARNING or NOTE
    camera: str
    start_s: float
    stop_s: float
    words: str  # with the numbers
    numbers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.code in CODES and self.severity in (ERROR, WARNING, NOTE), self
