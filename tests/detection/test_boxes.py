import pytest

from detection.boxes import Box, read_voc, read_yolo
from pipeline.stage import InputError

CLASSES = ("People", "Car")
CAR = Box("Car", 10, 20, 30, 50)


def test_voc_coordinates_are_taken_as_written(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [Box("Car", 1, 2.5, 96, 64)])
    assert read_voc(tmp_path / "a.xml", CLASSES, 96, 64) == ([Box("Car", 1, 2.5, 96, 64)], [])


def test_voc_class_names_match_whatever_their_case(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [Box("cAR", 10, 20, 30, 50), Box("PEOPLE", 1, 1, 5, 5)])
    boxes, _ = read_voc(tmp_path / "a.xml", CLASSES, 96, 64)
    assert [box.name for box in boxes] == ["Car", "People"]


def test_voc_file_without_objects_is_an_image_without_objects(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [])
    assert read_voc(tmp_path / "a.xml", CLASSES, 96, 64) == ([], [])


def test_unknown_class_is_refused_with_the_file_and_the_known_ones(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [Box("Tram", 1, 1, 5, 5)])
    with pytest.raises(InputError, match=r"a\.xml, object 1 has the unknown class 'Tram'; wanted one of People, Car"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


@pytest.mark.parametrize("edges", [(-2, 20, 30, 50), (80, 20, 98, 50), (10, -2, 30, 50), (10, 20, 30, 66)])
def test_box_slightly_outside_is_clipped_with_a_warning(tmp_path, write_voc, edges):
    write_voc(tmp_path / "a.xml", [Box("Car", *edges)])
    (box,), (warning,) = read_voc(tmp_path / "a.xml", CLASSES, 96, 64)
    assert 0 <= box.xmin < box.xmax <= 96 and 0 <= box.ymin < box.ymax <= 64
    assert "a.xml" in warning and "clipped" in warning


@pytest.mark.parametrize("edges", [(-3, 20, 30, 50), (80, 20, 99, 50), (10, -3, 30, 50), (10, 20, 30, 67)])
def test_box_farther_outside_is_refused(tmp_path, write_voc, edges):
    write_voc(tmp_path / "a.xml", [CAR, Box("Car", *edges)])
    with pytest.raises(InputError, match=r"a\.xml, object 2: Car at .* lies outside its image of 96x64"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


def test_allowance_outside_is_one_percent_of_large_images(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [Box("Car", 900, 10, 1010, 50)], 1000, 800)
    (box,), _ = read_voc(tmp_path / "a.xml", CLASSES, 1000, 800)
    assert box.xmax == 1000


def test_box_without_area_is_dropped_with_a_warning(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [Box("Car", 10, 20, 10, 50), CAR, Box("Car", 96, 1, 97, 9)])
    boxes, warnings = read_voc(tmp_path / "a.xml", CLASSES, 96, 64)
    assert boxes == [CAR]
    assert sum("no area" in warning for warning in warnings) == 2


def test_box_turned_inside_out_is_refused(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [Box("Car", 30, 20, 10, 50)])
    with pytest.raises(InputError, match=r"a\.xml, object 1: Car at 30, 20, 10, 50 is turned inside out"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


def test_image_size_stated_wrongly_is_a_warning(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [CAR], 1024, 768)
    assert read_voc(tmp_path / "a.xml", CLASSES, 96, 64)[1] == [
        f"{tmp_path / 'a.xml'} says that the image is 1024x768; it is 96x64"
    ]


@pytest.mark.parametrize("value", ["nan", "inf", "ten", "1,5"])
def test_edge_that_is_no_number_is_refused(tmp_path, write_voc, value):
    write_voc(tmp_path / "a.xml", [Box("Car", value, 20, 30, 50)])
    with pytest.raises(InputError, match=rf"a\.xml, object 1 has the xmin '{value}'; wanted a number"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


@pytest.mark.parametrize("gone", ["<name>Car</name>", "<ymax>50</ymax>", "Car"])
def test_missing_field_is_refused(tmp_path, write_voc, gone):
    write_voc(tmp_path / "a.xml", [CAR])
    text = (tmp_path / "a.xml").read_text()
    (tmp_path / "a.xml").write_text(text.replace(gone, "", 1))
    with pytest.raises(InputError, match=r"a\.xml, object 1 has no <"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


def test_truncated_xml_is_refused(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [CAR])
    text = (tmp_path / "a.xml").read_text()
    (tmp_path / "a.xml").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"a\.xml is not valid XML"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


def test_other_xml_is_refused(tmp_path):
    (tmp_path / "a.xml").write_text("<svg/>")
    with pytest.raises(InputError, match=r"a\.xml has the root element <svg>"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


def test_billion_laughs_are_refused(tmp_path):
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = (
        f'<!DOCTYPE annotation [<!ENTITY l0 "ha">{laughs}]><annotation><object><name>&l9;</name></object></annotation>'
    )
    (tmp_path / "a.xml").write_text(bomb)
    with pytest.raises(InputError, match=r"a\.xml is not valid XML without entities"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


def test_external_entities_are_refused(tmp_path):
    (tmp_path / "secret").write_text("Car")
    entity = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{(tmp_path / "secret").as_uri()}">]>'
    (tmp_path / "a.xml").write_text(f"{entity}<annotation><object><name>&x;</name></object></annotation>")
    with pytest.raises(InputError, match=r"a\.xml is not valid XML without entities"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


def test_yolo_fractions_become_pixels(tmp_path):
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0.25 0.25 0.5 0.5\n")
    boxes, warnings = read_yolo(tmp_path / "a.txt", CLASSES, 80, 40)
    assert boxes == [Box("Car", 30, 10, 50, 30), Box("People", 0, 0, 40, 20)]
    assert warnings == []


def test_what_six_decimals_lose_is_clipped_in_silence(tmp_path):
    (tmp_path / "a.txt").write_text("0 0.1 0.5 0.200001 0.5\n")
    (box,), warnings = read_yolo(tmp_path / "a.txt", CLASSES, 640, 480)
    assert box.xmin == 0
    assert warnings == []


def test_empty_yolo_file_is_an_image_without_objects(tmp_path):
    (tmp_path / "a.txt").write_text("")
    assert read_yolo(tmp_path / "a.txt", CLASSES, 80, 40) == ([], [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "unknown class '2'; wanted one of 0 People, 1 Car"),
        ("-1 0.5 0.5 0.1 0.1", "unknown class '-1'"),
        ("0.5 0.5 0.5 0.1 0.1", "unknown class '0.5'"),
        ("0 0.5 0.5 0.1", "has 4 fields; wanted 5"),
        ("0 0.5 nan 0.1 0.1", "has the centre y 'nan'; wanted a number"),
        ("0 0.5 0.5 x 0.1", "has the width 'x'; wanted a number"),
        ("0 1.5 0.5 0.1 0.1", "lies outside its image of 80x40"),
        ("0 0.5 0.5 -0.1 0.1", "turned inside out"),
    ],
)
def test_bad_yolo_line_is_refused_with_its_number(tmp_path, line, message):
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(InputError, match=rf"a\.txt, line 2.*{message}"):
        read_yolo(tmp_path / "a.txt", CLASSES, 80, 40)


@pytest.mark.parametrize("read", [read_voc, read_yolo])
def test_missing_label_file_is_refused(tmp_path, read):
    with pytest.raises(InputError, match="a does not exist"):
        read(tmp_path / "a", CLASSES, 80, 40)


def test_binary_yolo_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"a\.txt is not text"):
        read_yolo(tmp_path / "a.txt", CLASSES, 80, 40)
