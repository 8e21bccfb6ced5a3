"""Schedules of learning rates: the factor by the share of a phase's iterations that is done, 0..1."""

from collections.abc import Callable


def halving(every: int, epochs: int) -> Callable[[float], float]:
    """Return the schedule that halves the rate after each `every` of so many epochs."""
    return lambda share: 0.5 ** (int(share * epochs) // every)


def tenth_after(first: int, epochs: int) -> Callable[[float], float]:
    """Return the schedule that takes a tenth of the rate after the first ones of so many epochs."""
    return lambda share: 1.0 if share < first / epochs else 0.1
