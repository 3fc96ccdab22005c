"""Python's cyclic garbage collector, held back where it finds next to nothing and takes a second for it."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collections: importing and tracing make a million objects that stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def skip_the_last() -> None:
    """Let the interpreter end without looking through all of torch and TVM for cycles."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
