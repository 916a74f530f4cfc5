"""The one error that kit raises for a mistake its user can mend, and the wording for unknown names."""

import difflib
import operator
from collections.abc import Iterable


class KitError(ValueError):
    """What was given, what is allowed, and the next thing to type. Anything else that escapes kit is a bug."""


def unknown(kind: str, given: object, allowed: Iterable[object]) -> KitError:
    """The error for a name that is not among the valid ones, nearest names first. The caller raises it."""
    folded = {str(name).casefold(): str(name) for name in allowed}  # so that "DHA" finds "dha"
    asked = given[:200].casefold() if isinstance(given, str) else ""
    nearest = [folded[close] for close in difflib.get_close_matches(asked, folded, n=3)]
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    names = ", ".join(dict.fromkeys([*nearest, *folded.values()]))
    return KitError(f"unknown {kind} {shown(given)}.{hint} Valid: {names or '(none)'}")


def shown(given: object) -> str:
    """What was given, in at most 200 letters."""
    try:
        text = repr(given)
    except Exception:  # of 5,000 digits, or lists in lists in lists
        text = f"a {type(given).__name__}"
    return text if len(text) <= 200 else f"{text[:199]}…"


def whole(name: str, given: object, least: int, most: int = 2**31) -> int:
    """The whole number given, one of numpy's too. Raises KitError for anything else, and outside `least` to `most`."""
    try:
        if not isinstance(given, bool) and least <= operator.index(given) <= most:
            return operator.index(given)
    except TypeError:
        pass
    raise KitError(f"{name}={shown(given)}: give a whole number from {least:,} to {most:,}")


def summary(error: BaseException) -> str:
    """Any error in one line, for a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
