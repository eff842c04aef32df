"""Memory between the stages of a block: what is freed goes back to the system.

glibc keeps pieces of up to 32 MB that were freed, for the next one who asks. Of a wide model that
is hundreds of megabytes of activations, which would stay beside the largest matrices of all.
"""

import ctypes
import sys


def give_back() -> bool:
    """Give freed memory back; return whether the system's malloc can.

    Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:  # musl
        return False
    trim(0)
    return True
