import time

import pytest

from detection import cost, loop
from detection.recipe import Recipe
from detection.variant import read_data
from pipeline.artefacts import read_json
from pipeline.stage import InputError

PLAN = ["--variants", "visible", "infrared", "fnet", "--seeds", "0", "1", "--device", "cpu", "--threads", "1"]
PLAN += ["--image-size", "64", "--batch", "4", "--epochs", "50"]


def run(tiny, output, *options):
    cost.main(["--data", str(tiny / "visible" / "data.yaml"), "--output", str(output), *PLAN, *options])
    return read_json(output)


def test_the_cost_of_a_plan_follows_from_what_real_steps_take(tiny, tmp_path, monkeypatch, caplog):
    steps, real = [], loop.loss_of

    def slowly(*args):
        steps.append(time.perf_counter())
        time.sleep(0.1)
        return real(*args)

    monkeypatch.setattr(loop, "loss_of", slowly)
    caplog.set_level("INFO")
    found = run(tiny, tmp_path / "cost.json", "--at-once", "2")
    # 6 trainings of 50 epochs of 3 batches: 5 of the 900 steps are a two-hundredth, after 2 that are not timed.
    assert found["timed_steps"] == 4 and len(steps) == 6
    assert 0.1 < found["seconds_per_step"] <= steps[-1] - steps[1]
    assert found["seconds_per_epoch"] == pytest.approx(3 * found["seconds_per_step"])
    assert found["images_per_s"] == pytest.approx(10 / found["seconds_per_epoch"])
    assert found["hours_per_training"] == pytest.approx(50 * found["seconds_per_epoch"] / 3600)
    assert found["hours"] == dict.fromkeys(("visible", "infrared", "fnet"), 2 * found["hours_per_training"])
    assert found["hours_in_all"] == pytest.approx(6 * found["hours_per_training"])
    assert (found["device"], found["images"], found["at_once"]) == ("CPU", 10, 2)
    first, second = (record.message for record in caplog.records)
    assert first.startswith("estimated cost of the detectors, from 4 steps on CPU: ") and "of 50 epochs" in first
    assert second.startswith("3 variants with 2 seed(s) each: ") and second.endswith(" with 2 at a time")


def test_few_images_of_a_plan_are_timed_with_their_own_boxes(tiny):
    data = read_data(tiny / "visible" / "data.yaml", "train")
    part = cost.subset_for_steps(data, Recipe(batch=2), 3)
    ids = [image["id"] for image in part.truth["images"]]
    assert len(part.images) == 6 and [image["file_name"] for image in part.truth["images"]] == list(part.images)
    assert sorted(a["image_id"] for a in part.truth["annotations"]) == sorted(ids)
    assert len(cost.subset_for_steps(data, Recipe(batch=16), 3).images) == 10


def test_hours_are_printed_as_they_are_read():
    assert (
        cost.duration(0.01) == "36 seconds"
        and cost.duration(0.51) == "30.6 minutes"
        and cost.duration(26.04) == "26.0 hours"
    )


def test_no_training_at_a_time_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="--at-once 0: expected at least 1"):
        run(tiny, tmp_path / "cost.json", "--at-once", "0")


def test_variants_with_another_network_are_counted_by_their_own_steps(tiny, tmp_path):
    found = cost.estimate(2.0, Recipe(batch=4, epochs=5), 10, ["visible", "fnet", "stacked"], [0, 1], {"stacked": 3.0})
    training = 2.0 * 3 * 5 / 3600
    assert found["hours_per_training"] == pytest.approx(training)
    assert found["hours"] == pytest.approx({"visible": 2 * training, "fnet": 2 * training, "stacked": 3 * training})
    assert found["hours_in_all"] == pytest.approx(7 * training)
    infrared = tiny / "infrared" / "data.yaml"
    cost.main(["--data", str(tiny / "visible" / "data.yaml"), str(infrared), "--output", str(tmp_path / "c"), *PLAN])
    timed = read_json(tmp_path / "c")
    assert timed["seconds_per_step_of"].keys() == {"infrared"}
    assert timed["networks"]["visible"] == timed["networks"]["infrared"]
    assert timed["networks"]["visible"]["image"] == [64, 64] and timed["networks"]["visible"]["multiply_adds"] > 1e6
    assert timed["hours"]["infrared"] != timed["hours"]["fnet"] == timed["hours"]["visible"]
