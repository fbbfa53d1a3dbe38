"""The images of a run over time: frames, how many there are, and the animated picture."""

import io
from itertools import pairwise

import pytest
import torch
from PIL import Image

from dd_plugin.data import Normalization, Recipe
from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller.course import (
    FRAMES,
    MOST_FRAMES,
    animation,
    forget_frames,
    keep_frame,
    last_frame,
)


def a_set(shape=(1, 8, 8), labels=(0, 0, 1, 1), classes=2, value=None):
    images = torch.rand(len(labels), *shape) if value is None else torch.full((1,), value)
    recipe = Recipe(
        shape=shape,
        class_names=tuple(map(str, range(classes))),
        steps=1,
        model="timm/dd_convnet",
        model_args={"width": 4, "depth": 1},
    )
    return SyntheticSet(
        recipe,
        Pixels(images.expand(len(labels), *shape)),
        torch.tensor(labels),
        torch.tensor(0.1),
        transform=Normalization([0.5] * shape[0], [0.5] * shape[0]),
    )


def steps(folder):
    return sorted(int(path.stem) for path in (folder / FRAMES).iterdir())


def test_frames_stay_few_and_spread_over_the_run(tmp_path):
    synthetic = a_set()
    for step in range(200):
        keep_frame(tmp_path, step, synthetic)
        assert len(steps(tmp_path)) <= MOST_FRAMES
    kept = steps(tmp_path)
    assert (kept[0], kept[-1]) == (0, 199)
    assert len(kept) == MOST_FRAMES
    assert max(b - a for a, b in pairwise(kept)) <= 12
    assert last_frame(tmp_path) == 199


def test_going_back_removes_later_frames(tmp_path):
    synthetic = a_set()
    for step in (0, 10, 20, 30):
        keep_frame(tmp_path, step, synthetic)
    keep_frame(tmp_path, 20, synthetic)
    assert steps(tmp_path) == [0, 10, 20]
    forget_frames(tmp_path, 10)
    assert steps(tmp_path) == [0, 10]
    forget_frames(tmp_path, -1)
    assert last_frame(tmp_path) is None
    forget_frames(tmp_path / "nowhere", -1)


def test_an_animation_shows_the_images_in_their_order(tmp_path):
    keep_frame(tmp_path, 0, a_set(value=0.0))
    assert animation(tmp_path) is None
    keep_frame(tmp_path, 5, a_set(value=1.0))
    keep_frame(tmp_path, 9, a_set(value=0.5))
    (tmp_path / FRAMES / "notes.txt").write_text("not a frame")
    with Image.open(io.BytesIO(animation(tmp_path))) as picture:
        assert (picture.format, picture.n_frames, picture.info["loop"]) == ("WEBP", 3, 0)
        levels = []
        for index in range(3):
            picture.seek(index)
            levels.append(picture.convert("L").getpixel((20, 20)))
    assert levels[0] < 10
    assert levels[1] > 245
    assert 100 < levels[2] < 155


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 8, 8), (3, 5, 300)])
@pytest.mark.parametrize("classes", [1, 3, 60])
def test_frames_have_a_bounded_size(tmp_path, shape, classes):
    labels = tuple(range(classes)) * 2
    keep_frame(tmp_path, 0, a_set(shape, labels, classes))
    with Image.open(tmp_path / FRAMES / "000000000.png") as frame:
        assert max(frame.size) <= 640


def test_classes_of_different_size_are_shown(tmp_path):
    keep_frame(tmp_path, 0, a_set(labels=(0, 0, 0, 1), classes=2))
    keep_frame(tmp_path, 1, a_set(labels=(1, 1, 1), classes=2))  # one class without an image
    assert animation(tmp_path) is not None
