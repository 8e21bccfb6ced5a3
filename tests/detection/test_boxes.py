import pytest

from detection.boxes import TWICE, Box, read_voc, read_yolo
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
    with pytest.raises(InputError, match=r"a\.xml, object 1 has the unknown class 'Tram'; expected one of People, Car"):
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
    with pytest.raises(InputError, match=r"a\.xml, object 1: Car at 30, 20, 10, 50 has exchanged edges"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


@pytest.mark.parametrize("stated", [(1024, 768), (96, 65), ("95.5", 64), (192, 128), (0, 768)])
def test_labels_of_an_image_of_another_size_are_refused(tmp_path, write_voc, stated):
    write_voc(tmp_path / "a.xml", [CAR], *stated)
    with pytest.raises(InputError, match=r"a\.xml says that the image is .*; it is 96x64; expected labels drawn"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


@pytest.mark.parametrize("stated", [("96.0", "64.0"), (0, 0), ("", ""), (" 96 ", "64"), (96, 0)])
def test_the_size_of_the_image_may_be_a_decimal_or_not_stated(tmp_path, write_voc, stated):
    write_voc(tmp_path / "a.xml", [CAR], *stated)
    assert read_voc(tmp_path / "a.xml", CLASSES, 96, 64) == ([CAR], [])


def test_sides_exchanged_in_the_stated_size_are_a_warning(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [CAR], 64, 96)
    boxes, (warning,) = read_voc(tmp_path / "a.xml", CLASSES, 96, 64)
    assert boxes == [CAR] and "it is 96x64: width and height are taken as exchanged" in warning


@pytest.mark.parametrize("stated", ["wide", "nan"])
def test_a_stated_size_that_is_no_number_is_refused(tmp_path, write_voc, stated):
    write_voc(tmp_path / "a.xml", [CAR], stated)
    with pytest.raises(InputError, match=rf"a\.xml, <size> has the width '{stated}'; expected a number"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


def test_voc_boxes_in_fractions_are_refused_as_such(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [Box("Car", 0.1, 0.2, 0.5, 1)])
    with pytest.raises(InputError, match=r"Car at 0.1, 0.2, 0.5, 1 lies within 0..1, as fractions .*; expected pixels"):
        read_voc(tmp_path / "a.xml", CLASSES, 96, 64)


def test_voc_boxes_given_twice_are_dropped_with_a_warning_for_each(tmp_path, write_voc):
    write_voc(tmp_path / "a.xml", [CAR, Box("Car", "10.0", 20, 30, "50.000"), Box("People", 10, 20, 30, 50), CAR])
    boxes, warnings = read_voc(tmp_path / "a.xml", CLASSES, 96, 64)
    assert boxes == [CAR, Box("People", 10, 20, 30, 50)]
    assert [warning.endswith(TWICE) for warning in warnings] == [True, True] and "object 2" in warnings[0]


def test_yolo_boxes_given_twice_are_dropped_with_a_warning_for_each(tmp_path):
    lines = ["1 0.5 0.5 0.25 0.5", "1 0.500000 0.5 0.25 0.50000", "1 0.5000001 0.5 0.25 0.5", "1 0.51 0.5 0.25 0.5"]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    boxes, warnings = read_yolo(tmp_path / "a.txt", CLASSES, 80, 40)
    assert len(boxes) == 2 and [warning.endswith(TWICE) for warning in warnings] == [True, True]


@pytest.mark.parametrize("value", ["nan", "inf", "ten", "1,5"])
def test_edge_that_is_no_number_is_refused(tmp_path, write_voc, value):
    write_voc(tmp_path / "a.xml", [Box("Car", value, 20, 30, 50)])
    with pytest.raises(InputError, match=rf"a\.xml, object 1 has the xmin '{value}'; expected a number"):
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


def test_a_byte_order_mark_and_class_numbers_as_decimals_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf1.000000 0.5 0.5 0.25 0.5\r\n")
    assert read_yolo(tmp_path / "a.txt", CLASSES, 80, 40) == ([Box("Car", 30, 10, 50, 30)], [])


def test_a_sixth_column_is_taken_as_confidence_and_said(tmp_path):
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.25 0.5 0.87\n0 0.25 0.25 0.5 0.5\n")
    boxes, (warning,) = read_yolo(tmp_path / "a.txt", CLASSES, 80, 40)
    assert boxes == [Box("Car", 30, 10, 50, 30), Box("People", 0, 0, 40, 20)]
    assert "has 1 lines of six fields; the last is taken as a confidence and ignored" in warning


def test_the_box_of_a_polygon_is_taken_and_said(tmp_path):
    (tmp_path / "a.txt").write_text("1 0.5 0.25 0.625 0.5 0.5 0.75 0.375 0.5\n0 0 0 0.5 0 0 0.5\n")
    boxes, (warning,) = read_yolo(tmp_path / "a.txt", CLASSES, 80, 40)
    assert boxes == [Box("Car", 30, 10, 50, 30), Box("People", 0, 0, 40, 20)]
    assert "has 2 polygons; their bounding boxes are used" in warning


def test_empty_yolo_file_is_an_image_without_objects(tmp_path):
    (tmp_path / "a.txt").write_text("")
    assert read_yolo(tmp_path / "a.txt", CLASSES, 80, 40) == ([], [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "unknown class '2'; expected one of 0 People, 1 Car"),
        ("-1 0.5 0.5 0.1 0.1", "unknown class '-1'"),
        ("0.5 0.5 0.5 0.1 0.1", "unknown class '0.5'"),
        ("0 0.5 0.5 0.1", "has 4 fields; expected 5"),
        ("0 0.5 nan 0.1 0.1", "has the centre y 'nan'; expected a number"),
        ("0 0.5 0.5 x 0.1", "has the width 'x'; expected a number"),
        ("0 1.5 0.5 0.1 0.1", "lies outside its image of 80x40"),
        ("0 0.5 0.5 -0.1 0.1", "has exchanged edges"),
        ("0 0.5 0.5 0.1 0.1 7", "has the confidence 7; expected 0 to 1"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1", "has 8 fields; expected 5"),
        ("0 0.1 0.1 0.2 nan 0.2 0.2", "has the coordinate of a point 'nan'"),
        ("0,0.5,0.5,0.1,0.1", "has 1 fields; expected 5: .*, separated by spaces"),
        ("1.5 0.5 0.5 0.1 0.1", "unknown class '1.5'"),
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
