"""The objects that are in memory."""

import gc
from collections import Counter


def alive(*kinds: type) -> Counter[str]:
    """Return the number of objects of each kind."""
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in kinds)
