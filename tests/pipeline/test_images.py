"""Images are read as OpenCV reads them where they are whole and of one meaning; every other file is refused by name."""

import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.images import levels, read_grey, read_image, write_image
from pipeline.stage import InputError


def put(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def saved(path, image, **options):
    """Write an array or a Pillow image by Pillow; return the path."""
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


@pytest.fixture
def picture(rng):
    return rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def smooth(rng):
    """A picture that compresses, of the size of a small camera's."""
    return cv2.GaussianBlur(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8), (0, 0), 2) * 3


@pytest.mark.parametrize("extension", ["png", "jpg", "bmp", "tif", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_truncated_file_is_refused_by_name(tmp_path, picture, extension, share):
    path = put(tmp_path / f"cut.{extension}", np.tile(picture, (4, 4, 1)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="cut"):
        read_image(path)


def test_sixteen_bits_and_alpha_that_matters_are_refused(tmp_path, picture):
    deep = put(tmp_path / "deep.png", picture.astype(np.uint16) * 256)
    clear = put(tmp_path / "clear.png", np.dstack([picture, picture[..., 0]]))
    for read in (read_image, read_grey):
        with pytest.raises(InputError, match=r"deep.png has 16-bit .* expected 8-bit"):
            read(deep)
        with pytest.raises(InputError, match=r"clear.png has an alpha channel that is not opaque everywhere"):
            read(clear)


def test_a_text_file_with_an_image_name_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(InputError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_grey_is_opencv_grey(tmp_path, picture):
    for extension in ("png", "jpg"):
        path = put(tmp_path / f"a.{extension}", picture)
        assert (read_grey(path) == cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)).all()


def test_writing_leaves_nothing_but_the_image(tmp_path, picture):
    data = write_image(tmp_path / "a.png", picture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == data
    assert (read_image(tmp_path / "a.png") == picture).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{"quality": 95}, {"quality": 60, "subsampling": 2}, {"progressive": True}])
def test_a_jpeg_has_the_levels_that_opencv_gives(tmp_path, smooth, channels, options):
    path = saved(tmp_path / "a.jpg", smooth if channels == 3 else smooth[..., 0], **options)
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read_image(path), read if channels == 1 else read[..., ::-1])
    assert np.array_equal(read_grey(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))


def test_every_real_jpeg_has_the_levels_that_opencv_gives(shared):
    paths = sorted((shared / "data").rglob("*.jpg"))[::29]
    for path in paths:
        read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(read_image(path), read if read.ndim == 2 else read[..., ::-1]), path
        assert np.array_equal(read_grey(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)), path


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("harm", ["zeros", "cut", "no end"])
def test_a_jpeg_that_is_damaged_inside_is_refused(tmp_path, smooth, harm, progressive):
    path = saved(tmp_path / "a.jpg", smooth, progressive=progressive)
    data = bytearray(path.read_bytes())
    middle = len(data) * 2 // 3
    if harm == "zeros":
        data[middle : middle + 100] = bytes(100)
    elif harm == "cut":
        data[middle:-2] = b""
    else:
        data[-2:] = b""
    path.write_bytes(data)
    for read in (read_image, read_grey):
        with pytest.raises(InputError, match=r"a\.jpg is damaged or truncated: .*(Corrupt JPEG data|Premature end)"):
            read(path)


def test_a_png_that_is_damaged_inside_is_refused(tmp_path, smooth):
    data = put(tmp_path / "a.png", smooth).read_bytes()
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big")
    half = data[start : start + length // 2]
    harmed = {
        "flipped": data[: start + 99] + bytes([data[start + 99] ^ 1]) + data[start + 100 :],
        "checksum": data[: start + length] + bytes(4) + data[start + length + 4 :],
        "half": data[: start - 8] + len(half).to_bytes(4, "big") + b"IDAT" + half
        + zlib.crc32(b"IDAT" + half).to_bytes(4, "big") + data[start + length + 4 :],
    }  # fmt: skip
    for name, content in harmed.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}\.png cannot be decoded: it is damaged"):
            read_image(tmp_path / f"{name}.png")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_is_read_and_refused_where_its_compressed_data_are_damaged(tmp_path, smooth, compression, channels):
    path = saved(tmp_path / "a.tif", smooth if channels == 3 else smooth[..., 0], compression=compression)
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read_image(path), read if channels == 1 else read[..., ::-1])
    if compression != "raw":  # it has nothing to be checked by
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a\.tif is damaged: its compressed data cannot be decoded"):
            read_image(path)


def test_bytes_after_the_end_and_a_wrong_size_field_are_passed_over(tmp_path, smooth):
    for ending in ("png", "jpg", "bmp"):
        path = put(tmp_path / f"a.{ending}", smooth)
        wanted, data = read_image(path), path.read_bytes()
        if ending == "bmp":
            data = data[:2] + (2**31).to_bytes(4, "little") + data[6:]
        path.write_bytes(data + b"camera" * 2000)
        assert np.array_equal(read_image(path), wanted)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_orientation_is_refused_in_every_format(tmp_path, picture, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{ending}", picture, exif=exif)
    if orientation == 1:
        assert read_image(path).shape == (24, 32, 3)
    else:
        shown = {3: "32x24", 6: "24x32"}[orientation]
        with pytest.raises(
            InputError, match=rf"EXIF orientation {orientation}: 32x24 as stored, {shown} when displayed"
        ):
            read_image(path)


def test_the_orientation_of_a_png_is_found_behind_its_pixels(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 8
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    data = put(tmp_path / "a.png", picture).read_bytes()
    chunk = len(block).to_bytes(4, "big") + b"eXIf" + block + zlib.crc32(b"eXIf" + block).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])
    with pytest.raises(InputError, match="EXIF orientation 8"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["tif", "png", "webp"])
def test_several_images_in_one_file_are_refused(tmp_path, picture, ending):
    path = saved(tmp_path / f"a.{ending}", picture, save_all=True, append_images=[Image.fromarray(255 - picture)])
    with pytest.raises(InputError, match=r"a\.\w+ contains several images"):
        read_image(path)


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_opaque_alpha_is_dropped_and_any_other_refused(tmp_path, picture, ending, mode):
    if (mode, ending) == ("LA", "webp"):
        pytest.skip("WebP has no grey")
    options = {"lossless": True, "exact": True} if ending == "webp" else {}
    pixels = picture[..., : len(mode) - 1]
    alpha = np.full((24, 32, 1), 255, np.uint8)
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(np.dstack([pixels, alpha]), mode), **options)
    assert np.array_equal(read_image(path), pixels if mode == "RGBA" else pixels[..., 0])
    if mode == "RGBA":
        without = saved(tmp_path / f"b.{ending}", picture, **options)
        assert np.array_equal(read_grey(path), read_grey(without))
    alpha[3, 5] = 254
    saved(path, Image.fromarray(np.dstack([pixels, alpha]), mode), **options)
    for read in (read_image, read_grey):
        with pytest.raises(InputError, match="alpha channel that is not opaque everywhere"):
            read(path)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.ones((8, 9), np.float32), "32-bit float samples"),
        (np.ones((8, 9), np.float64), "64-bit float samples"),
        (np.ones((8, 9), np.int32), "32-bit signed samples"),
        (np.ones((8, 9), np.int8), "8-bit signed samples"),
    ],
)
def test_samples_of_another_type_are_refused_by_name(tmp_path, image, found):
    path = put(tmp_path / "a.tif", image)
    with pytest.raises(InputError, match=rf"a\.tif has {found}; expected 8-bit"):
        read_image(path, (0, 100))


@pytest.mark.parametrize(
    ("mode", "ending", "found"), [("CMYK", "jpg", "CMYK"), ("CMYK", "tif", "CMYK"), ("LAB", "tif", "Lab")]
)
def test_other_colours_than_rgb_are_refused(tmp_path, picture, mode, ending, found):
    image = Image.fromarray(picture) if mode == "LAB" else Image.fromarray(picture).convert(mode)
    if mode == "LAB":
        image = Image.frombytes("LAB", image.size, image.tobytes())
    with pytest.raises(InputError, match=found):
        read_image(saved(tmp_path / f"a.{ending}", image))


def test_white_that_is_stored_as_0_and_other_formats_are_refused(tmp_path, picture):
    path = saved(tmp_path / "a.tif", picture[..., 0], tiffinfo={262: 0})
    with pytest.raises(InputError, match="grey with white as 0; expected grey or RGB"):
        read_image(path)
    with pytest.raises(InputError, match=r"a\.png is a GIF file"):
        read_image(saved(tmp_path / "a.png", picture, format="GIF"))


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_counts_become_levels_by_the_stated_range(tmp_path, ending, kind):
    if (ending, kind) == ("png", np.int16):
        pytest.skip("PNG has no signs")
    counts = np.array([[0, 7000, 7001, 8000, 9000, 30000]], kind)
    path = put(tmp_path / f"a.{ending}", np.repeat(counts, 4, axis=0))
    for read in (read_image, read_grey):
        assert read(path, (7000, 9000))[0].tolist() == [0, 0, 0, 128, 255, 255]
        with pytest.raises(InputError, match=r"16-bit samples.*--infrared-range LOW HIGH"):
            read(path)
        with pytest.raises(InputError, match="one channel of 8 bits; expected one channel of 16 bits"):
            read(put(tmp_path / "b.png", counts.astype(np.uint8)), (7000, 9000))
    assert levels(np.uint16([0, 1, 2]), 0, 2).tolist() == [0, 128, 255]


def test_the_cases_that_failed_are_read_or_refused(shared):
    cases = shared / "cases/images"
    if not cases.is_dir():
        pytest.skip("the cases are absent")
    refused = {"jpeg_zero_block": "damaged", "jpeg_cut_then_ended": "damaged", "exif_jpg": "EXIF orientation"}
    for path in sorted(cases.rglob("vi*/*")):
        case = path.parent.parent.name
        if case in refused:
            with pytest.raises(InputError, match=refused[case]):
                read_image(path)
        else:
            assert read_image(path).ndim == 3
    found = {"ir_multi": "several images", "ir_f64": "64-bit float", "ir_u32": "32-bit unsigned"}
    found["ir_5band"] = "5 channels"
    for folder, reason in found.items():
        with pytest.raises(InputError, match=reason):
            read_grey(cases / "tiff_kinds" / folder / "00000.tif")
