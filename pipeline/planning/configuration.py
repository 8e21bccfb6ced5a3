"""What the configuration's schema cannot check."""

from collections.abc import Mapping
from typing import Any

from pipeline.corruptions import chosen_levels
from pipeline.stage import InputError, with_home

MOST_VALUES = 100_000  # of a configuration, far above any; YAML's aliases can make billions of a few lines


def check_size(config: Mapping[str, Any]) -> None:
    """Raise InputError for a configuration so large that checking it, or saying what is wrong, would not end."""
    waiting: list[Any] = [config]
    count = 0
    while waiting:
        one = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise InputError(
                f"the configuration holds more than {MOST_VALUES:,} values; wanted no aliases that multiply"
            )
        if isinstance(one, (list, dict)):
            waiting += one.values() if isinstance(one, dict) else one


def with_homes(value: Any) -> Any:
    """Return a value of the configuration with the home folder in the place of a leading `~` of its texts."""
    if isinstance(value, dict):
        return {key: with_homes(one) for key, one in value.items()}
    if isinstance(value, list):
        return [with_homes(one) for one in value]
    return with_home(value) if isinstance(value, str) else value


def chosen_test_sets(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of the test sets of this run by name; InputError where `only` names one that is not there."""
    known, only = config["test_sets"]["sets"], config["test_sets"]["only"]
    if unknown := set(only or []) - set(known):
        raise InputError(f"config: test_sets.only names {sorted(unknown)}; wanted names of {sorted(known)}")
    return {name: settings for name, settings in known.items() if name in (only or known)}


def check_tables(config: Mapping[str, Any]) -> None:
    """Raise InputError where a table lacks its test sets or ablations."""
    for section, wanting, entries in (
        ("test_sets.sets", {"table1", "table1_equal", "table3"}, config["test_sets"]["sets"]),
        ("ablations", {"table3"}, config["ablations"]),
    ):
        if not entries and (tables := wanting & set(config["tables"])):
            raise InputError(f"config: {section} is empty; {sorted(tables)} want some")


def check_testing(config: Mapping[str, Any]) -> None:
    """Raise InputError where more detections of a class are to count than a test keeps in an image."""
    testing = config["detection"]["testing"]
    most, kept = testing["most_detections"], testing["max_detections"]
    if most > 100 and kept is not None and kept < most:  # 100 is the protocol's, of which fewer may be kept
        raise InputError(
            f"config: detection.testing.most_detections is {most} and max_detections {kept}; wanted as many kept in an "
            "image as may count, or max_detections left out"
        )


def check_inside(config: Mapping[str, Any]) -> None:
    """Raise InputError where a detector that is given both bands cannot be made or trained as the settings say."""
    detection = config["detection"]
    if detection["twostream"] and detection["model"].startswith("rtdetr"):
        raise InputError(
            f"config: detection.twostream is true and detection.model {detection['model']}, of which no two streams "
            "can be made; wanted yolov5, yolov8 or yolo11, or twostream: false"
        )
    if detection["training"]["augment_on_device"] and (detection["stacked"] or detection["twostream"]):
        raise InputError(
            "config: detection.training.augment_on_device is true, and so is stacked or twostream, whose four channels "
            "it cannot augment; wanted one of them false"
        )


def check_trainings(config: Mapping[str, Any]) -> None:
    """Raise InputError where FNet, or one of its ablations, would be trained by this run for no iteration at all."""
    settings = config["fnet"]["training"]
    here = "fnet" in config["fusion"]["methods"] and not config["fnet"]["weights"]
    trained = {"fnet.training": settings} if here else {}
    if "table3" in config["tables"]:
        trained |= {f"ablations.{name}": settings | changed for name, changed in config["ablations"].items()}
    for name, training in trained.items():
        if not training["stage1_iterations"] and not training["stage2_iterations"]:
            raise InputError(f"config: {name} has no iterations in either stage; wanted at least one to train by")


def chosen_corruptions(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the levels of each kind by which one band of the test pairs is made worse.

    Raises:
        InputError: a kind stands twice, or has no such level; there is no table of the detector.
    """
    chosen: dict[str, list[str]] = {}
    for entry in config["robustness"]:
        kind = entry["kind"]
        if kind in chosen:
            raise InputError(f"config: robustness names {kind} twice; wanted each kind once")
        try:
            chosen[kind] = chosen_levels(kind, entry.get("levels"))
        except InputError as error:
            raise InputError(f"config: robustness: {error}") from None
    if chosen and "table2" not in config["tables"]:
        raise InputError("config: robustness is of the detectors of table2, which tables does not name")
    return chosen
