"""The one error that kit raises for a mistake its user can mend, and the wording for unknown names."""

import difflib
from collections.abc import Iterable


class KitError(ValueError):
    """What was given, what is allowed, and the next thing to type. Anything else that escapes kit is a bug."""


def unknown(kind: str, given: object, allowed: Iterable[object]) -> KitError:
    """The error for a name that is not among the valid ones, nearest names first. The caller raises it."""
    folded = {str(name).casefold(): str(name) for name in allowed}  # so that "DHA" finds "dha"
    nearest = [folded[close] for close in difflib.get_close_matches(str(given).casefold(), folded, n=3)]
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    names = ", ".join(dict.fromkeys([*nearest, *folded.values()]))
    return KitError(f"unknown {kind} {given!r}.{hint} Valid: {names or '(none)'}")


def summary(error: BaseException) -> str:
    """Any error in one line, for a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
