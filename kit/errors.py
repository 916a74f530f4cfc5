"""The one error that kit raises for a mistake its user can mend, and the wording for unknown names."""

import difflib
from collections.abc import Iterable


class KitError(ValueError):
    """What was given, what is allowed, and the next thing to type. Anything else that escapes kit is a bug."""


def unknown(kind: str, given: object, allowed: Iterable[object]) -> KitError:
    """The error for a name that is not among the valid ones, nearest names first. The caller raises it."""
    names = [str(name) for name in allowed]
    # compared without case, so that "DHA" finds "dha"
    folded = [name.casefold() for name in names]
    close = difflib.get_close_matches(str(given).casefold(), folded, n=3)
    nearest = list(dict.fromkeys(name for fold in close for name in names if name.casefold() == fold))
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return KitError(f"unknown {kind} {given!r}.{hint} Valid: {', '.join(dict.fromkeys(nearest + names)) or '(none)'}")
