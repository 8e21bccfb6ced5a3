"""Checks of the configuration that its schema cannot express."""

from collections.abc import Mapping
from typing import Any

from pipeline.corruptions import chosen_levels
from pipeline.stage import InputError, with_home

MOST_VALUES = 100_000  # in a configuration, far above any real one; aliases in YAML can expand to billions of values


def check_size(config: Mapping[str, Any]) -> None:
    """Raise InputError for a configuration that is too large to be checked."""
    waiting: list[Any] = [config]
    count = 0
    while waiting:
        one = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise InputError(
                f"the configuration has more than {MOST_VALUES:,} values; expected no nested aliases that multiply them"
            )
        if isinstance(one, (list, dict)):
            waiting += one.values() if isinstance(one, dict) else one


def with_homes(value: Any) -> Any:
    """Return a value of the configuration with a leading `~` of its texts replaced by the home folder."""
    if isinstance(value, dict):
        return {key: with_homes(one) for key, one in value.items()}
    if isinstance(value, list):
        return [with_homes(one) for one in value]
    return with_home(value) if isinstance(value, str) else value


def chosen_test_sets(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of the test sets of this run by name; raise InputError if `only` has an unknown name."""
    known, only = config["test_sets"]["sets"], config["test_sets"]["only"]
    if unknown := set(only or []) - set(known):
        raise InputError(f"config: test_sets.only names {sorted(unknown)}; expected names among {sorted(known)}")
    return {name: settings for name, settings in known.items() if name in (only or known)}


def check_tables(config: Mapping[str, Any]) -> None:
    """Raise InputError if a table lacks its test sets or ablations."""
    for section, needing, entries in (
        ("test_sets.sets", {"table1", "table1_equal", "table3"}, config["test_sets"]["sets"]),
        ("ablations", {"table3"}, config["ablations"]),
    ):
        if not entries and (tables := needing & set(config["tables"])):
            raise InputError(f"config: {section} is empty; expected at least one entry for {sorted(tables)}")


def check_testing(config: Mapping[str, Any]) -> None:
    """Raise InputError if more detections per class and image are to count than a test keeps per image."""
    testing = config["detection"]["testing"]
    most, kept = testing["most_detections"], testing["max_detections"]
    if most > 100 and kept is not None and kept < most:  # with the protocol's 100, fewer may be kept
        raise InputError(
            f"config: detection.testing.most_detections is {most} and max_detections {kept}; expected max_detections "
            "of at least most_detections, or no max_detections"
        )


def check_inside(config: Mapping[str, Any]) -> None:
    """Raise InputError if a detector with both bands as input cannot be built or trained with the settings."""
    detection = config["detection"]
    if detection["twostream"] and detection["model"].startswith("rtdetr"):
        raise InputError(
            f"config: detection.twostream is true and detection.model is {detection['model']}, which cannot have two "
            "streams; expected yolov5, yolov8 or yolo11, or twostream: false"
        )
    if detection["training"]["augment_on_device"] and (detection["stacked"] or detection["twostream"]):
        raise InputError(
            "config: detection.training.augment_on_device is true and so is detection.stacked or detection.twostream; "
            "expected one of them to be false, because four channels cannot be augmented on the device"
        )


def check_trainings(config: Mapping[str, Any]) -> None:
    """Raise InputError if this run would train FNet, or one of its ablations, for no iterations."""
    settings = config["fnet"]["training"]
    here = "fnet" in config["fusion"]["methods"] and not config["fnet"]["weights"]
    trained = {"fnet.training": settings} if here else {}
    if "table3" in config["tables"]:
        trained |= {f"ablations.{name}": settings | changed for name, changed in config["ablations"].items()}
    for name, training in trained.items():
        if not training["stage1_iterations"] and not training["stage2_iterations"]:
            raise InputError(f"config: {name} has no iterations in either stage; expected at least one iteration")


def chosen_corruptions(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the levels of each kind of corruption in `robustness`.

    Raises:
        InputError: a kind is repeated or does not have a level; Table II is not requested.
    """
    chosen: dict[str, list[str]] = {}
    for entry in config["robustness"]:
        kind = entry["kind"]
        if kind in chosen:
            raise InputError(f"config: robustness names {kind} twice; expected each kind once")
        try:
            chosen[kind] = chosen_levels(kind, entry.get("levels"))
        except InputError as error:
            raise InputError(f"config: robustness: {error}") from None
    if chosen and "table2" not in config["tables"]:
        raise InputError("config: robustness tests the detectors of table2; expected table2 in tables")
    return chosen
