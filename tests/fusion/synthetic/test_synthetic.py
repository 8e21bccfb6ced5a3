"""The synthetic road scenes: reproducible, in M3FD's layout, and with what makes fusion worth testing."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from defusedxml import ElementTree

from fusion.synthetic import CLASSES, CONDITIONS, Scene, make_scene
from fusion.synthetic.__main__ import main, write_scenes
from fusion.synthetic.painting import BLACK, Camera, Painter, Part, Pose
from fusion.synthetic.scene import SMALLEST_BOX, Box, _find_boxes, _paint_things, _Thing
from fusion.synthetic.shapes import person
from fusion.synthetic.street import _paint_markings, choose_street
from fusion.synthetic.vehicles import truck
from fusion.synthetic.weather import choose_weather
from pipeline.pairs import find_pairs, read_image, read_names
from pipeline.stage import InputError

WIDTH, HEIGHT = 192, 144


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(5, index, WIDTH, HEIGHT) for index in range(64)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("data") / "road scenes"
    write_scenes(output, train=5, test=3, size=(96, 80), seed=7)
    return output


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Reproducible


def test_same_seed_gives_the_same_bytes_in_another_process(written: Path, tmp_path: Path) -> None:
    options = ["--train", "5", "--test", "3", "--size", "96", "80", "--seed", "7"]
    subprocess.run([sys.executable, "-m", "fusion.synthetic", "--output", tmp_path / "again", *options], check=True)
    assert files_of(tmp_path / "again") == files_of(written)


def test_a_scene_does_not_depend_on_how_many_are_written(written: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, train=2, test=0, size=(96, 80), seed=7)
    few, many = files_of(tmp_path), files_of(written)
    assert few["test.txt"] == b""
    assert all(few[name] == many[name] for name in few if "0000" in name)


def test_another_seed_gives_other_scenes_and_so_does_another_index() -> None:
    images = [make_scene(seed, index, 64, 64).visible for seed, index in ((1, 0), (2, 0), (1, 1))]
    assert all((images[a] != images[b]).any() for a, b in ((0, 1), (0, 2), (1, 2)))


def test_rerun_writes_identical_files_and_removes_only_its_own_surplus(tmp_path: Path) -> None:
    write_scenes(tmp_path, train=2, test=1, size=(64, 64), seed=1)
    first = files_of(tmp_path)
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "Vis" / "readme").write_text("mine")
    (tmp_path / "Ir" / "00001.png").unlink()
    write_scenes(tmp_path, train=2, test=1, size=(64, 64), seed=1)
    assert first.items() <= files_of(tmp_path).items()
    write_scenes(tmp_path, train=1, test=0, size=(64, 64), seed=1)
    assert sorted(files_of(tmp_path)) == [
        "Annotation/00000.xml", "Ir/00000.png", "Vis/00000.png", "Vis/readme",
        "notes.md", "synthetic.json", "test.txt", "train.txt",
    ]  # fmt: skip


def test_a_killed_run_leaves_no_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path, train=1, test=1, size=(64, 64), seed=1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fusion.synthetic.__main__.make_scene", killed)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, train=1, test=1, size=(64, 64), seed=2)
    assert not (tmp_path / "train.txt").exists() and not (tmp_path / "test.txt").exists()


# Layout


def test_layout_is_that_of_m3fd(written: Path) -> None:
    pairs = find_pairs(written / "Vis", written / "Ir")
    assert [pair.name for pair in pairs] == [f"{index:05}" for index in range(8)]
    assert [path.name for path in sorted((written / "Annotation").iterdir())] == [f"{i:05}.xml" for i in range(8)]
    for pair in pairs:
        visible, infrared = read_image(pair.visible), read_image(pair.infrared)
        assert visible.shape == infrared.shape == (80, 96, 3)
        assert (infrared == infrared[..., :1]).all()


def test_train_and_test_share_no_scene(written: Path) -> None:
    train, test = read_names(written / "train.txt"), read_names(written / "test.txt")
    assert train == sorted(train) and test == sorted(test)
    assert len(train) == 5 and len(test) == 3 and not set(train) & set(test)
    images = {(written / "Vis" / f"{name}.png").read_bytes() for name in train + test}
    assert len(images) == 8


def test_annotations_parse_as_pascal_voc_with_boxes_inside_the_image(written: Path) -> None:
    for path in sorted((written / "Annotation").iterdir()):
        root = ElementTree.parse(path).getroot()
        assert root.tag == "annotation" and root.findtext("filename") == f"{path.stem}.png"
        assert [int(root.findtext(f"size/{key}")) for key in ("width", "height", "depth")] == [96, 80, 3]
        assert root.findtext("source/condition") in CONDITIONS
        for item in root.iter("object"):
            assert item.findtext("name") in CLASSES
            left, top, right, bottom = (int(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
            assert 0 <= left < right <= 96 and 0 <= top < bottom <= 80
            cut = left == 0 or top == 0 or right == 96 or bottom == 80
            assert item.findtext("truncated") == str(int(cut)) and item.findtext("difficult") == "0"


@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 201), (301, 67), (320, 240)])
def test_any_size_gives_images_of_that_size_and_boxes_worth_learning(width: int, height: int) -> None:
    boxes = 0
    for index in range(4):
        scene = make_scene(3, index, width, height)
        assert scene.visible.shape == (height, width, 3) and scene.infrared.shape == (height, width)
        assert scene.visible.dtype == scene.infrared.dtype == np.uint8
        for box in scene.boxes:
            assert box.left >= 0 and box.top >= 0 and box.right <= width and box.bottom <= height
            assert min(box.right - box.left, box.bottom - box.top) >= SMALLEST_BOX
            boxes += 1
    assert boxes


# Content


@pytest.mark.parametrize(
    ("seed", "first"),
    [(0, 0), (1, 41), *(pytest.param(*place, marks=pytest.mark.by_hand) for place in ((0, 200), (2, 7)))],
)
def test_sixty_scenes_hold_twenty_boxes_of_every_class(seed: int, first: int) -> None:
    # Scenes follow from relative sizes, so a small picture would lose small boxes only.
    counts = Counter(box.label for index in range(first, first + 60) for box in make_scene(seed, index, 160, 120).boxes)
    assert set(counts) == set(CLASSES)
    assert min(counts.values()) >= 20
    assert {label for label, _ in counts.most_common(2)} == {"People", "Car"}


def test_conditions_are_balanced(scenes: list[Scene]) -> None:
    assert Counter(scene.condition for scene in scenes) == dict.fromkeys(CONDITIONS, 16)


def surroundings(scene: Scene, image: np.ndarray, label: str) -> list[tuple[float, float, float, float]]:
    """For each box of a class that overlaps no other: mean and deviation inside, and in a ring round it."""
    found = []
    for box in scene.boxes:
        wide, tall = (box.right - box.left) // 2, (box.bottom - box.top) // 8
        ring = (max(box.left - wide, 0), max(box.top - tall, 0), box.right + wide, box.bottom + tall)
        others = [other for other in scene.boxes if other is not box]
        apart = all(o.left >= ring[2] or o.right <= ring[0] or o.top >= ring[3] or o.bottom <= ring[1] for o in others)
        if box.label != label or not apart:
            continue
        inside = np.zeros(image.shape, bool)
        inside[box.top : box.bottom, box.left : box.right] = True
        around = np.zeros_like(inside)
        around[ring[1] : ring[3], ring[0] : ring[2]] = True
        around &= ~inside
        found.append((image[inside].mean(), image[inside].std(), image[around].mean(), image[around].std()))
    return found


@pytest.mark.parametrize("condition", CONDITIONS)
def test_people_are_warm_in_infrared_whatever_the_light(scenes: list[Scene], condition: str) -> None:
    people = [
        values
        for scene in scenes
        if scene.condition == condition
        for values in surroundings(scene, scene.infrared.astype(float), "People")
    ]
    assert len(people) >= 4
    assert all(inside > around + 5 for inside, _, around, _ in people)


def test_people_are_harder_to_see_in_the_visible_by_night_than_by_day(scenes: list[Scene]) -> None:
    contrast = {}
    for condition in ("day", "night"):
        deviations = []
        for scene in scenes:
            if scene.condition == condition:
                # Blurred, because noise is no contrast.
                grey = cv2.GaussianBlur(cv2.cvtColor(scene.visible, cv2.COLOR_RGB2GRAY), (3, 3), 0).astype(float)
                deviations += [inside for _, inside, _, _ in surroundings(scene, grey, "People")]
        contrast[condition] = np.median(deviations)
    assert contrast["night"] < 0.35 * contrast["day"]


def test_lamps_stand_out_in_the_visible_and_hardly_in_infrared(scenes: list[Scene]) -> None:
    excess = {
        band: np.median([
            inside / around
            for scene in scenes
            for _, inside, _, around in surroundings(scene, image(scene), "Lamp")
        ])
        for band, image in (
            ("visible", lambda scene: scene.visible.max(axis=2).astype(float)),
            ("infrared", lambda scene: scene.infrared.astype(float)),
        )
    }  # fmt: skip
    assert excess["visible"] > 1.5 > 1.0 > excess["infrared"]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_lane_markings_do_not_appear_in_infrared(condition: str, rng: np.random.Generator) -> None:
    weather = choose_weather(condition, rng)
    painter = Painter(Camera(300.0, 160.0, 100.0, 2.0), 320, 240, weather.sun)
    painter.fill([np.array([(0, 0), (320, 0), (320, 240), (0, 240)])], (90, 90, 90), weather.heat["road"])
    heat = painter.surface[..., 3].copy()
    _paint_markings(painter, choose_street(rng), weather, rng)
    assert np.count_nonzero(painter.surface[..., 0] > 180) > 100
    assert (painter.surface[..., 3] == heat).all()


# The painter


def test_a_box_of_known_size_is_painted_where_a_pinhole_camera_sees_it() -> None:
    painter = Painter(Camera(200.0, 160.0, 100.0, 2.0), 320, 240, (0.0, 1.0, 0.0))
    corners = np.array([(-1, 0, 0), (1, 0, 0), (1, 1, 0), (-1, 1, 0)], float)
    face = Part(corners, (200.0, 100.0, 50.0), 77.0, (0.0, 9.0, 0.0), normal=(0.0, 0.0, 1.0))
    painter.draw([[face]], Pose(0.5, 10.0, np.pi), owner=3)
    # 10 m away a metre is 20 px: x from 160 + 20 (0.5 - 1) to 160 + 20 (0.5 + 1), y from 100 + 20 (2 - 1) to 100 + 40.
    rows, columns = np.nonzero(painter.light[..., 3] == 3)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (150, 190, 120, 140)
    assert painter.surface[130, 170, 3] == 77 and painter.light[130, 170].tolist() == [0, 9, 0, 3]


def test_a_face_that_looks_away_is_not_painted() -> None:
    painter = Painter(Camera(200.0, 160.0, 100.0, 2.0), 320, 240, (0.0, 1.0, 0.0))
    corners = np.array([(-1, 0, 0), (1, 0, 0), (1, 1, 0), (-1, 1, 0)], float)
    painter.draw([[Part(corners, (200.0, 0.0, 0.0), 9.0, BLACK, normal=(0.0, 0.0, 1.0))]], Pose(0.0, 10.0), owner=1)
    assert not painter.surface.any() and not painter.light.any()


def test_a_box_holds_what_is_seen_and_a_hidden_object_has_none(rng: np.random.Generator) -> None:
    weather, camera = choose_weather("day", rng), Camera(800.0, 320.0, 200.0, 2.0)
    lorry_shape, size = truck(weather, rng, running=True)
    person_shape = person(weather, rng)

    def boxes_with_person_at(x: float, *others: _Thing) -> list[Box | None]:
        things = [_Thing(person_shape, Pose(x, 20.0), (0.6, 1.75, 0.5), "People"), *others]
        painter, whole = _paint_things(Painter(camera, 640, 480, weather.sun), things, weather)
        return _find_boxes(painter, things, whole)

    lorry = _Thing(lorry_shape, Pose(0.0, 12.0), size, "Truck")
    alone = boxes_with_person_at(2.2)[0]
    assert boxes_with_person_at(0.5, lorry)[0] is None
    edge = boxes_with_person_at(0.5, lorry)[1].right
    x = (edge * 2 - 320.0) * 20.0 / 800.0  # the edge of the lorry goes through the person's middle
    partly, whole = boxes_with_person_at(x, lorry)[0], boxes_with_person_at(x)[0]
    assert alone.bottom - alone.top == pytest.approx(1.75 * 40 / 2, abs=2)
    assert partly.left == pytest.approx(edge, abs=1) and partly.left > whole.left + 2 and partly.right == whole.right


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train", "0"], "--train 0"),
        (["--test", "-1"], "--test -1"),
        (["--train", "99999", "--test", "2"], "at most 100000"),
        (["--size", "63", "64"], "--size 63 64"),
        (["--size", "64", "10"], "--size 64 10"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_written(
    options: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        main(["--output", str(tmp_path / "data"), *options])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["Vis/00000.png", "Ir/photo.jpg", "Annotation/00000.xml"])
def test_a_folder_with_images_of_someone_else_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(InputError, match=name):
        write_scenes(tmp_path, train=1, test=1, size=(64, 64), seed=0)
    assert files_of(tmp_path) == {name: b"mine"}


def test_a_foreign_image_in_a_folder_of_ours_is_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path, train=1, test=0, size=(64, 64), seed=0)
    (tmp_path / "Vis" / "00007.png").write_bytes(b"mine")
    before = files_of(tmp_path)
    with pytest.raises(InputError, match=r"Vis/00007\.png was not written by"):
        write_scenes(tmp_path, train=9, test=0, size=(64, 64), seed=0)
    assert files_of(tmp_path) == before


def test_a_broken_marker_and_an_output_that_is_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "synthetic.json").write_text("[]")
    with pytest.raises(InputError, match=r"synthetic\.json does not state"):
        write_scenes(tmp_path, train=1, test=0, size=(64, 64), seed=0)
    with pytest.raises(InputError, match=r"synthetic\.json is not a folder"):
        write_scenes(tmp_path / "synthetic.json", train=1, test=0, size=(64, 64), seed=0)
