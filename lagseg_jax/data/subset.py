"""Keeps some of the cases of datasets, by their names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from lagseg_jax.data.cases import Case
from lagseg_jax.runtime.errors import InputError, nearest_name


def select(
    cases: Sequence[Case], keep: Sequence[str], exclude: Sequence[str], option: str
) -> list[Case]:
    """The cases that are named, without those that are excluded.

    Args:
        cases: with label or without.
        keep: names or glob patterns such as `P01_*`, or several with commas; () for all cases.
        exclude: the same.
        option: how the names of the options begin, for messages.

    Raises:
        InputError: a name or a pattern that fits no case, or no case is left.
    """
    names = [case.name for case in cases]
    kept = _fitting(names, keep, f"{option}cases") if keep else set(names)
    kept -= _fitting(names, exclude, f"{option}exclude")
    if names and not kept:
        raise InputError(
            f"{option}cases is {tuple(keep)} and {option}exclude is {tuple(exclude)}, which leaves "
            f"none of {len(names)} cases, expected some."
        )
    return [case for case in cases if case.name in kept]


def _fitting(names: Sequence[str], patterns: Sequence[str], option: str) -> set[str]:
    found: set[str] = set()
    for pattern in _without_commas(names, patterns):
        # A name may hold brackets, which mean something else in a pattern.
        fits = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
        if not fits:
            raise InputError(
                f"{option} has {pattern!r}, which none of {len(names)} cases is called, expected "
                f"names or patterns{nearest_name(pattern, names)}"
            )
        found |= fits
    return found


def _without_commas(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Each pattern of `a,b` by itself, unless a case is called so."""
    return [
        one
        for pattern in patterns
        for one in ([pattern] if pattern in names else filter(None, pattern.split(",")))
    ]
