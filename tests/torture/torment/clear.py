"""Whether an error tells its user what to do."""

from __future__ import annotations

import re

from perdure.backends.errors import PerdureError

REMEDIES = re.compile("try again|restore|open it|see to|end it|free|ask|reopen|remove|name |check |verify|larger|delete|upgrade|newer")


def is_clear(error: BaseException) -> bool:
    """It is of ours, names a place or subject, and what to do."""
    text = str(error)
    return isinstance(error, PerdureError) and len(text) > 20 and bool(REMEDIES.search(text))
