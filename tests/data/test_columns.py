"""Columns are found or asked for, labels become indices, any image becomes uint8 or an error."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from dd_plugin.data.columns import Classes, DataError, find_columns, read_pixels


def dataset(**features):
    return Dataset.from_dict({name: [] for name in features}, features=Features(features))


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": None}


# --- columns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"a": Image(), "b": ClassLabel(names=["x", "y"])}, ("a", "b")),
        ({"img": Image(), "label": Value("int64")}, ("img", "label")),
        ({"pixel_values": Value("binary"), "Label": Value("string")}, ("pixel_values", "Label")),
        # Several of the right type: the usual name decides.
        ({"mask": Image(), "image": Image(), "label": Value("int8")}, ("image", "label")),
        (
            {"image": Image(), "label": ClassLabel(names=["a"]), "part": ClassLabel(names=["b"])},
            ("image", "label"),
        ),
        # The right type wins over the usual name.
        ({"photo": Image(), "image": Value("string"), "y": Value("bool")}, ("photo", "y")),
    ],
)
def test_columns_are_found(features, expected):
    found = find_columns(dataset(**features))
    assert (found.image, found.label) == expected


def test_declared_names_and_mode_are_kept():
    found = find_columns(dataset(image=Image(mode="RGB"), label=ClassLabel(names=["x", "y"])))
    assert found.class_names == ["x", "y"]
    assert found.channels == 3


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"x": Value("float32"), "label": Value("int64")},
            r"no image column found.*`image_column`",
        ),
        ({"image": Image(), "score": Value("float32")}, r"no label column.*`label_column`.*score"),
        (
            {"left": Image(), "right": Image(), "label": Value("int64")},
            r"2 columns may be the images \(left, right\)",
        ),
        (
            {
                "image": Image(),
                "fine_label": ClassLabel(names=["a"]),
                "coarse_label": ClassLabel(names=["b"]),
            },
            r"2 columns may be the labels \(fine_label, coarse_label\); name it with `label_c",
        ),
    ],
)
def test_none_or_several_columns_are_an_error_that_lists_them(features, message):
    with pytest.raises(DataError, match=message) as raised:
        find_columns(dataset(**features))
    for name in features:
        assert name in str(raised.value)


def test_given_columns_are_checked():
    data = dataset(image=Image(), fine=ClassLabel(names=["a"]), score=Value("float32"))
    assert find_columns(data, label_column="fine").label == "fine"
    with pytest.raises(DataError, match="no column 'klass'; columns: image"):
        find_columns(data, label_column="klass")
    with pytest.raises(DataError, match="'score', whose type float32 cannot hold labels"):
        find_columns(data, label_column="score")
    with pytest.raises(DataError, match="'fine', whose type ClassLabel cannot hold images"):
        find_columns(data, image_column="fine")
    words = dataset(a=Value("string"), b=Value("string"))
    with pytest.raises(DataError, match="must differ"):
        find_columns(words, image_column="a", label_column="a")


def test_stream_without_features_is_looked_at():
    image = PILImage.new("L", (2, 2))
    stream = IterableDataset.from_generator(lambda: iter([{"img": image, "y": 1, "id": 0.5}]))
    found = find_columns(stream)
    assert (found.image, found.label, found.class_names) == ("img", "y", None)
    with pytest.raises(DataError, match="no rows"):
        find_columns(IterableDataset.from_generator(lambda: iter([])))


# --- classes ------------------------------------------------------------------------------------


def test_declared_names_are_kept():
    classes = Classes.make(declared=["cat", "dog"], values=[1, 0])
    assert classes.names == ["cat", "dog"]
    assert classes.encode([1, 0, 1]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "names", "indices"),
    [
        (["dog", "cat", "dog"], ["cat", "dog"], [1, 0, 1]),
        ([7, 3, 10], ["3", "7", "10"], [1, 0, 2]),  # sorted as numbers, not as text
        ([True, False], ["False", "True"], [1, 0]),
    ],
)
def test_names_are_made_from_distinct_labels(values, names, indices):
    classes = Classes.make(values=values)
    assert classes.names == names
    assert classes.encode(values).tolist() == indices


def test_test_labels_are_matched_to_training_classes_by_name():
    # An image folder without "bird" numbers its classes from 0 all the same.
    classes = Classes.make(declared=["cat", "dog"], class_names=["bird", "cat", "dog"])
    assert classes.encode([0, 1]).tolist() == [1, 2]
    classes = Classes.make(class_names=["bird", "cat"], values=["cat"])
    assert classes.encode(["cat"]).tolist() == [1]
    # Numbers whose training names were made from them: label 7 is class "7", at place 1.
    classes = Classes.make(class_names=["3", "7", "10"], values=[7, 10])
    assert classes.encode([7, 10]).tolist() == [1, 2]


def test_classes_can_be_renamed_but_not_confused():
    classes = Classes.make(declared=["0", "1"], class_names=["zero", "one"])
    assert (classes.names, classes.encode([1]).tolist()) == (["zero", "one"], [1])
    classes = Classes.make(class_names=["zero", "one"], values=[0, 1])
    assert classes.encode([0, 1]).tolist() == [0, 1]
    with pytest.raises(DataError, match="not among the given ones: dog"):
        Classes.make(declared=["cat", "dog"], class_names=["cat", "cow"])


def test_sets_of_classes_that_cannot_be():
    with pytest.raises(DataError, match=r"at least two classes, got 1 \(5\)"):
        Classes.make(values=[5, 5])
    with pytest.raises(DataError, match="got a more than once"):
        Classes.make(class_names=["a", "b", "a"], values=[0])
    with pytest.raises(DataError, match="pass `class_names`"):
        Classes.make()
    with pytest.raises(DataError, match="all numbers or all words"):
        Classes.make(values=[1, "a"])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, r"row 102 has no label \(None\)"),
        (-1, "row 102 has the label -1; negative labels mark rows without a class"),
        (2, "row 102 has the label 2, the 2 classes have 0 to 1"),
        ("a", "row 102 has the label 'a'"),
        ([0, 1], r"row 102 has the label \[0, 1\]; there must be one class per image"),
        (float("nan"), "row 102 has the label nan"),
        (0.5, "row 102 has the label 0.5"),
    ],
)
def test_bad_label_is_named_with_its_row(label, message):
    classes = Classes.make(declared=["a", "b"])
    with pytest.raises(DataError, match=message):
        classes.encode([0, 1, label], first_row=100)


def test_bad_labels_do_not_become_classes():
    classes = Classes.make(values=[0, 1, None, -1])
    assert classes.names == ["0", "1"]
    with pytest.raises(DataError, match="None"):
        classes.encode([0, None])
    with pytest.raises(DataError, match="row 0 has the label -1; negative labels"):
        Classes.make(values=[-1, -1])


# --- pixels -------------------------------------------------------------------------------------


def test_every_way_to_hold_an_image_gives_the_same_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = PILImage.fromarray(pixels)
    image.save(tmp_path / "a.png")
    cell = encoded(image)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    holders = [
        cell,
        cell["bytes"],
        {"bytes": None, "path": str(tmp_path / "a.png")},
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        image,
        pixels,
        pixels.tolist(),
        pixels.astype(np.int64),
        (pixels / 255).astype(np.float32),
        np.moveaxis(pixels, -1, 0),  # `pixel_values`: 3 x 5 x 6 cannot be height first
        tensor,
        tensor.float() / 255,
    ]
    for holder in holders:
        np.testing.assert_array_equal(read_pixels(holder, 0), pixels)


def test_grey_images():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
    image = PILImage.fromarray(pixels)
    for holder in (image, encoded(image), pixels, torch.from_numpy(pixels)[None]):
        np.testing.assert_array_equal(read_pixels(holder, 0), pixels[..., None])
        repeated = read_pixels(holder, 0, channels=3)
        np.testing.assert_array_equal(repeated, np.repeat(pixels[..., None], 3, axis=2))


def test_colour_becomes_luminance_on_request():
    # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B = 76.2 for pure red.
    red = encoded(PILImage.new("RGB", (2, 2), (255, 0, 0)))
    assert read_pixels(red, 0, channels=1).tolist() == [[[76], [76]], [[76], [76]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_modes_of_a_white_image(mode):
    white = {"I;16": 65535, "F": 1.0}.get(mode)
    if white is None:
        image = PILImage.new("RGB", (3, 2), "white").convert(mode)
    else:
        image = PILImage.new(mode, (3, 2), white)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "F": "TIFF"}.get(mode, "PNG")
    pixels = read_pixels(encoded(image, kind), 0)
    grey = mode in ("1", "L", "LA", "I;16", "F")
    assert pixels.shape == (2, 3, 1 if grey else 3)
    assert pixels.min() == 255


def test_sixteen_bits_are_scaled_not_cut():
    # 257 = 65535 / 255: grey value g of 8 bits is 257 g of 16.
    values = np.array([[0, 257, 257 * 128, 65535]], dtype=np.uint16)
    pixels = read_pixels(encoded(PILImage.fromarray(values)), 0)
    assert pixels[..., 0].tolist() == [[0, 1, 128, 255]]
    thirty_two = PILImage.fromarray(np.array([[0, 1 << 20]], dtype=np.int32))
    with pytest.raises(DataError, match=r"row 4.*more than 16 bits"):
        read_pixels(encoded(thirty_two, "TIFF"), 4)
    eight = PILImage.fromarray(np.array([[0, 200]], dtype=np.int32))
    assert read_pixels(eight, 0)[..., 0].tolist() == [[0, 200]]


def test_opacity_is_dropped_without_a_warning():
    image = PILImage.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert read_pixels(encoded(image), 0)[0, 0].tolist() == [10, 20, 30]
    palette = PILImage.new("P", (2, 2))
    palette.putpalette([10, 20, 30])
    cell = encoded(palette, transparency=b"\x00")
    assert read_pixels(cell, 0)[0, 0].tolist() == [10, 20, 30]


def test_exif_orientation_turns_the_image():
    image = PILImage.new("RGB", (8, 4))
    exif = PILImage.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert read_pixels(encoded(image, "JPEG", exif=exif), 0).shape == (8, 4, 3)
    assert read_pixels(encoded(image, "PNG", exif=exif), 0).shape == (8, 4, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_other_sizes_are_covered_and_the_middle_is_cut_out(kind):
    # Left third black, middle white, right black: a square from the middle is white.
    pixels = np.zeros((100, 300), dtype=np.uint8)
    pixels[:, 100:200] = 255
    image = encoded(PILImage.fromarray(pixels), kind)
    small = read_pixels(image, 0, size=(10, 10))
    assert small.shape == (10, 10, 1)
    assert small[:, 1:-1].min() > 230
    assert read_pixels(image, 0, size=(200, 600)).shape == (200, 600, 1)  # larger, too
    assert read_pixels(pixels[..., None], 0, size=(7, 9), channels=3).shape == (7, 9, 3)


def test_float_pixels_are_rounded_to_eight_bits():
    values = np.array([[0.0, 0.4 / 255, 0.6 / 255, 1.0]])
    assert read_pixels(values, 0)[..., 0].tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "it is None"),
        ({"bytes": None, "path": None}, "neither bytes nor a path"),
        ({"bytes": b"", "path": "cat.png"}, "the image cat.png cannot be read"),
        ({"bytes": b"no image", "path": None}, "cannot identify"),
        ({"bytes": None, "path": "/nowhere/cat.png"}, "cat.png"),
        (np.full((2, 2), 1.5), "from 1.5 to 1.5, but must lie in 0 to 1.*without a normalisation"),
        (np.full((2, 2), np.nan), "nan"),
        (np.full((2, 2), 256), "0 to 255"),
        (torch.full((1, 2, 2), -0.1), "from -0.1"),
        (np.zeros((2, 2, 5)), r"its shape is \(2, 2, 5\)"),
        (np.zeros((2, 2, 2, 3)), "its shape"),
        (np.zeros((0, 2)), "its shape"),
        (np.array([["a"]]), "row 3"),
        (7, "row 3"),
        ([[[1], [2, 3]]], "row 3"),
    ],
)
def test_what_is_no_image_is_named_with_its_row(value, message):
    with pytest.raises(DataError, match=message) as raised:
        read_pixels(value, 3)
    assert str(raised.value).startswith("row 3: the image")


def test_huge_declared_image_is_refused():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=r"row 1: .*decompression bomb"):
        read_pixels({"bytes": bomb, "path": None}, 1)


_SOUND = [
    encoded(PILImage.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)), kind)["bytes"]
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(_SOUND),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    st.none() | st.integers(0, 10**6),
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_files_are_read_or_refused(sound, flips, length):
    damaged = bytearray(sound)
    for place, value in flips:
        damaged[place % len(damaged)] = value
    if length is not None:
        del damaged[length % len(damaged) :]
    # Whatever else is raised fails the test.
    with contextlib.suppress(DataError):
        pixels = read_pixels({"bytes": bytes(damaged), "path": None}, 0, size=(8, 8))
        assert pixels.shape in ((8, 8, 1), (8, 8, 3))
