"""The one error that kit raises for a mistake its user can mend, and the wording for unknown names."""

import difflib
from collections.abc import Iterable


class KitError(ValueError):
    """What was given, what is allowed, and the next thing to type. Anything else that escapes kit is a bug."""


def unknown(kind: str, given: object, allowed: Iterable[object]) -> KitError:
    """The error for a name that is not among the valid ones, nearest names first. The caller raises it.

    >>> raise unknown("dataset", "digit", ["cifar10", "digits"])
    KitError: unknown dataset 'digit'. Did you mean 'digits'? Valid: digits, cifar10
    """
    names = [str(name) for name in allowed]
    # Compared without case, so that "DHA" finds "dha" (get_close_matches alone rates them as strangers).
    by_fold: dict[str, list[str]] = {}
    for name in names:
        by_fold.setdefault(name.casefold(), []).append(name)
    close = difflib.get_close_matches(str(given).casefold(), list(by_fold), n=3, cutoff=0.6)
    nearest = [name for fold in close for name in by_fold[fold]]
    listed = nearest + [name for name in names if name not in nearest]
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return KitError(f"unknown {kind} {given!r}.{hint} Valid: {', '.join(listed) or '(none)'}")
