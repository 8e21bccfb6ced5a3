"""What goes where of a user's own method: its inputs and outputs by their names, refused where they could be mixed up.

Two bands that are swapped, or another output than the fused image, give pictures that look right.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.stage import InputError

VISIBLE = frozenset(
    "visible visual vis vi viz v vs vl rgb color colour optical optic daylight eo".split()  # noqa: SIM905
)
INFRARED = frozenset(
    "infrared infra inf ir thermal therm heat tir lwir mwir swir nir fir flir".split()  # noqa: SIM905
)
FUSED = frozenset("fused fusion fuse fus".split())  # noqa: SIM905
BANDS = ("visible", "infrared")


@dataclass(frozen=True)
class Binding:
    """Which inputs the two bands are given to.

    visible, infrared: names of the inputs.
    how: by what they were told apart, for people.
    keywords: whether the inputs are given by name; else visible comes first where `visible_first`.
    """

    visible: str
    infrared: str
    how: str
    keywords: bool = False
    visible_first: bool = True

    def call(self, function: Callable[..., Any], visible: Any, infrared: Any) -> Any:
        """Return what the function gives for the two bands."""
        if self.keywords:
            return function(**{self.visible: visible, self.infrared: infrared})
        return function(visible, infrared) if self.visible_first else function(infrared, visible)

    def __str__(self) -> str:
        return f"visible to {self.visible}, infrared to {self.infrared}, {self.how}"


IN_ORDER = Binding("the first input", "the second input", "by order, as it names none")


def words_of(name: str) -> set[str]:
    """Return the words of a name, small: of `visibleImage_1` visible and image."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = set(re.findall(r"[a-z]+", apart.lower()))
    # Written together, as in `imgvis` and `irimage`.
    return words | {re.sub(r"^(?:input|image|img|in|x)|(?:input|image|img|in|x)$", "", word) for word in words}


def band_of(name: str) -> str | None:
    """Return `visible` or `infrared` where a name says so, None where it says neither or both."""
    words = words_of(name)
    visible, infrared = bool(words & VISIBLE), bool(words & INFRARED)
    return None if visible == infrared else BANDS[infrared]


def bind(names: Sequence[str], what: str, optional: Sequence[str] = (), by_name: Sequence[str] = ()) -> Binding:
    """Return which of a method's inputs are the bands.

    Args:
        names: all inputs, in order.
        what: the method, as an error names it.
        optional: those of them that need not be given.
        by_name: those of them that can be given by name only.

    Raises:
        InputError: the inputs are not two, or their names do not tell which is which.
    """
    required = [name for name in names if name not in optional]
    for candidates in (required, names):
        bands = [[name for name in candidates if band_of(name) == band] for band in BANDS]
        if len(bands[0]) == 1 == len(bands[1]):
            visible, infrared = bands[0][0], bands[1][0]
            break
    else:
        visible = infrared = None
    others = set(required) - {visible, infrared}
    if len(names) < 2 or (others and (visible is not None or len(required) != 2)):
        raise InputError(
            f"{what} takes {len(required)} inputs ({', '.join(required) or 'none'}); wanted two, visible and infrared, "
            "and a default for every other"
        )
    how = "by their names"
    if visible is None:
        if len(required) != 2:
            raise InputError(
                f"{what} does not say by its inputs' names ({', '.join(names)}) which two are the bands; wanted "
                "visible and infrared"
            )
        found = [band_of(name) for name in required]
        if found[0] is not None and found[0] == found[1]:
            raise InputError(
                f"{what} has two inputs for one band by their names ({', '.join(required)} are both {found[0]}); "
                "wanted one called visible and one called infrared"
            )
        if found == [None, None] and any(words_of(name) & (VISIBLE | INFRARED) for name in required):
            raise InputError(
                f"{what} does not tell its inputs apart: {', '.join(required)}; wanted one called visible and one "
                "called infrared"
            )
        swapped = found[0] == "infrared" or found[1] == "visible"
        visible, infrared = reversed(required) if swapped else required
        how = "by order, as their names say neither band" if found == [None, None] else "by the name of one of them"
    leading = list(names[:2])
    keywords = bool({visible, infrared} & set(by_name)) or {visible, infrared} != set(leading)
    return Binding(visible, infrared, how, keywords, leading[0] == visible)


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return what a function takes; None where Python cannot know it, as of some compiled ones."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def names_both_bands(function: Callable[..., Any]) -> bool:
    """Return whether a function's parameters name both bands, so that it fuses also where all have defaults."""
    found = {band_of(parameter.name) for parameter in parameters_of(function) or ()}
    return set(BANDS) <= found


def bind_function(function: Callable[..., Any], what: str) -> Binding:
    """Return which of a function's parameters are the bands; by order where it takes any, or Python cannot know.

    Raises:
        InputError: as `bind`.
    """
    parameters = parameters_of(function)
    if parameters is None:
        return IN_ORDER
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if any(one.kind == one.VAR_POSITIONAL for one in parameters) and not named:
        return IN_ORDER
    nameless = [one.name for one in named if one.kind == one.POSITIONAL_ONLY]
    binding = bind(
        [one.name for one in named],
        what,
        [one.name for one in named if one.default is not one.empty],
        [one.name for one in named if one.kind == one.KEYWORD_ONLY],
    )
    if binding.keywords and {binding.visible, binding.infrared} & set(nameless):
        raise InputError(
            f"{what} takes {', '.join(nameless)} by place only, and not first; wanted visible and infrared first"
        )
    return binding


def metric_order(function: Callable[..., Any], what: str) -> list[int]:
    """Return which of visible, infrared and fused (0, 1, 2) each of a metric's parameters is, by their names.

    Where they name nothing, or Python cannot know them, by order.

    Raises:
        InputError: some names contradict the order, and not all three say what they are.
    """
    required = [one.name for one in parameters_of(function) or () if one.default is one.empty and one.kind < 2]
    said = [[place for place, words in enumerate((VISIBLE, INFRARED, FUSED)) if words_of(n) & words] for n in required]
    found = [places[0] if len(places) == 1 else None for places in said]
    if sorted(map(str, found)) == ["0", "1", "2"]:
        return [place for place in found if place is not None]
    if any(place not in (None, number) for number, place in enumerate(found)):
        raise InputError(
            f"{what} does not tell its inputs apart by their names ({', '.join(required)}); wanted visible, infrared, "
            "fused"
        )
    return [0, 1, 2]


def fused_of(outputs: Any, what: str, names: Sequence[str] | None = None) -> Any:
    """Return the fused image of what a method gives: of several outputs the one that is called so.

    `names` are those of a list of outputs; a mapping and a named tuple have their own.

    Raises:
        InputError: there are several, and none or several of them are called fused.
    """
    if isinstance(outputs, Mapping):
        names, outputs = list(map(str, outputs)), list(outputs.values())
    if not isinstance(outputs, (list, tuple)):
        return outputs
    names = names or getattr(outputs, "_fields", None) or [str(number) for number in range(len(outputs))]
    called = [place for place, name in enumerate(names) if words_of(name) & FUSED]
    if len(outputs) != 1 and len(called) != 1:
        raise InputError(
            f"{what} gives {len(outputs)} outputs ({', '.join(names)}); wanted one, or one of them called fused"
        )
    return fused_of(outputs[0 if len(outputs) == 1 else called[0]], what)


def one_channel(shape: Sequence[int], what: str) -> None:
    """Raise InputError unless what a network gave is one image of one channel: (1, 1, H, W), or fewer ones."""
    if len(shape) < 2 or any(size != 1 for size in shape[:-2]):
        raise InputError(
            f"{what} gave an output of shape {tuple(shape)}; wanted (1, 1, H, W), one image of one channel: fused luma"
        )
