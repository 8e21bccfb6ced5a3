"""Learning rate schedules: functions from the fraction of a phase's iterations that is done, 0..1, to a factor."""

from collections.abc import Callable


def halving(every: int, epochs: int) -> Callable[[float], float]:
    """Return a schedule that halves the rate every `every` epochs, for a phase of `epochs` epochs."""
    return lambda fraction: 0.5 ** (int(fraction * epochs) // every)


def tenth_after(first: int, epochs: int) -> Callable[[float], float]:
    """Return a schedule that divides the rate by 10 after the first `first` of `epochs` epochs."""
    return lambda fraction: 1.0 if fraction < first / epochs else 0.1
