"""An interpreter that pauses the control loop as little as it can."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH_S = 5e-4  # another thread gives way to the loop after so long, 5 ms by default


@contextmanager
def quiet_interpreter() -> Iterator[None]:
    """Keep the interpreter from pausing the loop: shorter turns of other threads, old objects out of the collector."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before_s)
