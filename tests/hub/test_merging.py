"""`dd_plugin.hub.merging`: several sets become one, or are refused with what to do."""

import pytest
import torch
from torch import Tensor

from dd_plugin import DistilledDataset
from dd_plugin.data.parametrization import Pixels, Upsampled
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.data.transforms import Normalization
from dd_plugin.hub import MergeError
from dd_plugin.hub.folder import write_set

HALF = Normalization([0.5], [0.25])


def make(
    folder,
    classes,
    *,
    count=4,
    seed=0,
    shape=(1, 4, 4),
    transform=HALF,
    form=False,
    factor=1,
    constants=None,
    initial=None,
    step_sizes=(0.1, 0.2),
    record=None,
    **recipe,
):
    """A small set with random images and labels, opened."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, *shape, generator=generator)
    sizes = step_sizes if isinstance(step_sizes, Tensor) else torch.tensor(step_sizes)
    synthetic = SyntheticSet(
        Recipe(**{"shape": shape, "class_names": tuple(classes), "steps": 2, **recipe}),
        Pixels(images) if factor == 1 else Upsampled(images, factor),
        torch.arange(count) % len(classes),
        sizes,
        transform=transform,
        soft_labels=form,
        constants=constants,
    )
    if form:
        targets = torch.rand(count, len(classes), generator=generator)
        synthetic.set_targets(targets / targets.sum(1, keepdim=True))
    write_set(folder, synthetic, initial=initial, **(record or {}))
    return DistilledDataset.from_pretrained(folder)


def test_classes_and_images_of_both(tmp_path):
    a = make(tmp_path / "a", "xy")
    b = make(tmp_path / "b", "zw", count=6, seed=1)
    merged = a.merge(b, folder=tmp_path / "c")
    assert merged.class_names == ("x", "y", "z", "w")
    assert torch.equal(merged.images, torch.cat([a.images, b.images]))
    assert merged.labels.tolist() == [0, 1, 0, 1, 2, 3, 2, 3, 2, 3]
    assert merged.soft_labels is None
    assert torch.allclose(merged.step_sizes, a.step_sizes)
    assert merged.record["images"]["learned_step_sizes"]
    assert merged.record["about"]["merged"] == 2
    assert "2 distilled sets were merged" in (tmp_path / "c" / "README.md").read_text()
    # What both were is as it was.
    assert torch.equal(DistilledDataset.from_pretrained(tmp_path / "a").images, a.images)


def test_a_class_of_both_is_one_if_asked(tmp_path):
    a, b = make(tmp_path / "a", "xy"), make(tmp_path / "b", "yz", seed=1)
    with pytest.raises(MergeError, match=r"a and .*b both have 'y' among .* `same_classes`"):
        a.merge(b, folder=tmp_path / "c")
    assert not (tmp_path / "c").exists()
    merged = a.merge(b, folder=tmp_path / "c", same_classes=True)
    assert merged.class_names == ("x", "y", "z")
    assert merged.labels.tolist() == [0, 1, 0, 1, 1, 2, 1, 2]


def test_a_set_is_not_merged_with_itself_by_whatever_path(tmp_path, monkeypatch):
    a = make(tmp_path / "a", "xy")
    monkeypatch.chdir(tmp_path)
    for again in (a, DistilledDataset.from_pretrained("a")):
        with pytest.raises(MergeError, match=r"merged once, got .*a twice; name it once"):
            a.merge(again, folder=tmp_path / "c", same_classes=True)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("form", ["probabilities", "weights"])
def test_learned_labels_stay(tmp_path, form):
    a = make(tmp_path / "a", "xy", form=form)
    b = make(tmp_path / "b", "zyw", form=form, count=3, seed=1)
    merged = a.merge(b, folder=tmp_path / "c", same_classes=True)
    assert merged.record["images"]["label_form"] == form
    # x y z w: a fresh label of four classes has a thirtieth for each other class.
    share = 1 / 30 if form == "probabilities" else 0.0
    expected = torch.full((7, 4), share)
    expected[:4, [0, 1]] = a.soft_labels * (1 - 2 * share)
    expected[4:, [2, 1, 3]] = b.soft_labels * (1 - share)
    assert torch.allclose(merged.soft_labels, expected, atol=1e-6)


def test_what_is_learned_once_is_the_mean_by_images_in_any_order(tmp_path):
    values = ((0.1, 0.4), (0.2, 0.1), (0.4, 0.4))
    a, b, c = (
        make(
            tmp_path / name,
            name,
            count=count,
            step_sizes=sizes,
            constants={"norm.running_mean": torch.tensor([float(count)])},
        )
        for name, count, sizes in zip(("ab", "cd", "ef"), (2, 4, 6), values, strict=True)
    )
    at_once = a.merge(b, c, folder=tmp_path / "at_once")
    sizes = torch.tensor(values)
    expected = sizes[0] ** (2 / 12) * sizes[1] ** (4 / 12) * sizes[2] ** (6 / 12)
    assert torch.allclose(at_once.step_sizes, expected)
    mean = at_once.synthetic("exact").constants()["norm.running_mean"]
    assert torch.allclose(mean, torch.tensor([(2 * 2 + 4 * 4 + 6 * 6) / 12]))
    ordered = a.merge(b, folder=tmp_path / "ab_cd").merge(c, folder=tmp_path / "two_by_two")
    assert torch.allclose(ordered.step_sizes, at_once.step_sizes)
    assert torch.equal(ordered.images, at_once.images)
    assert ordered.record["about"]["merged"] == at_once.record["about"]["merged"] == 3


def test_groups_stay_groups(tmp_path):
    recipe = {"batching": "groups", "groups": 2}
    a = make(tmp_path / "a", "xy", **recipe)
    b = make(tmp_path / "b", "zw", seed=1, **recipe)
    merged = a.merge(b, folder=tmp_path / "c")
    first = torch.cat([a.images[:2], b.images[:2]])
    synthetic = merged.synthetic("exact")
    assert torch.equal(merged.images[synthetic.indices(0, 0)], first)
    assert merged.labels.tolist() == [0, 1, 2, 3] * 2


def test_pixels_that_are_stored_smaller_stay_so(tmp_path):
    a = make(tmp_path / "a", "xy", factor=2)
    b = make(tmp_path / "b", "zw", factor=2, seed=1)
    merged = a.merge(b, folder=tmp_path / "c")
    assert torch.equal(merged.images, torch.cat([a.images, b.images]))
    assert merged.record["images"]["upsample_factor"] == 2


def test_a_network_trains_on_the_merged_set(tmp_path):
    recipe = {"model": "timm/dd_convnet", "model_args": {"width": 4, "depth": 1}}
    a, b = make(tmp_path / "a", "xy", **recipe), make(tmp_path / "b", "zw", **recipe)
    model = a.merge(b, folder=tmp_path / "c").fit()
    assert model(torch.rand(1, 1, 4, 4)).shape == (1, 4)


def test_the_record_says_what_is_known_of_all(tmp_path):
    def source(name, images, licenses):
        return {
            "source": {"dataset": name, "images": images, "licenses": licenses},
            "about": {"config": {"seed": 0, "learning_rate": images / 100}},
        }

    a = make(tmp_path / "a", "xy", record=source("me/one", 10, ["mit"]))
    b = make(tmp_path / "b", "zw", record=source("me/one", 20, ["cc0-1.0"]))
    c = make(tmp_path / "c", "uv", record=source("me/two", 30, []))
    record = a.merge(b, folder=tmp_path / "ab").record
    assert record["source"]["dataset"] == "me/one"
    assert record["source"]["images"] == 30
    assert record["source"]["licenses"] == ["mit", "cc0-1.0"]
    assert record["about"]["config"] == {"seed": 0}
    record = a.merge(b, c, folder=tmp_path / "abc").record
    assert record["source"]["dataset"] is None
    assert record["source"]["licenses"] == []


def test_learned_corrections_are_not_averaged_with_none(tmp_path):
    def corrected(name, value):
        constants = {"norm.running_mean": torch.tensor([value])}
        return make(tmp_path / name, {"a": "xy", "b": "zw", "c": "uv"}[name], constants=constants)

    a, b, c = corrected("a", 0.0), corrected("b", 0.5), corrected("c", 0.0)
    message = "a and .*b only the second has learned corrections .* `statistics_corrections`"
    with pytest.raises(MergeError, match=message):
        a.merge(b, folder=tmp_path / "out")
    with pytest.raises(MergeError, match="only the first has learned"):
        b.merge(a, folder=tmp_path / "out")
    a.merge(c, folder=tmp_path / "out")


START = {"fc.weight": torch.ones(2)}
DIFFERENT = {
    "size": ({"shape": (1, 6, 6)}, "images of 4 x 4 and 6 x 6 pixels; .* `image_size`"),
    "channels": (
        {"shape": (3, 4, 4), "transform": Normalization([0.5] * 3, [0.25] * 3)},
        "images of 1 and 3 channels; .* all gray, or all in color",
    ),
    "normalization": (
        {"transform": Normalization([0.4], [0.25])},
        r"\(mean 0.5 and std 0.25; mean 0.4 and std 0.25\).* `normalization=none`, or .*start_from",
    ),
    "labels": ({"form": "weights"}, "forms of labels, classes and weights; .* `label_form`"),
    "storage": ({"factor": 2}, "1 and 2 times smaller .* `upsample_factor`"),
    "steps": ({"steps": 3, "step_sizes": [0.1] * 3}, r"in two ways \(steps: 2 and 3\)"),
    "optimizer": ({"optimizer": "adam"}, r"\(optimizer: 'sgd' and 'adam'\)"),
    "step sizes": ({"step_sizes": torch.tensor(0.1)}, r"\(2,\) and \(\); .* `step_sizes`"),
    "case": ({"classes": ["X ", "z"]}, "a has the class 'x' and .*b has 'X '; give both the same"),
    "start": ({"init": "fixed", "initial": START, "both": True}, "weights of its own; .* `init="),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_does_not_go_together_is_refused(tmp_path, what):
    options, message = DIFFERENT[what]
    options = {"classes": "zw", **options}
    both = options if options.pop("both", False) else {}
    a = make(tmp_path / "a", **{**both, "classes": "xy"})
    b = make(tmp_path / "b", **options)
    with pytest.raises(MergeError, match=message):
        a.merge(b, folder=tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_one_set_or_a_full_folder(tmp_path):
    a, b = make(tmp_path / "a", "xy"), make(tmp_path / "b", "zw")
    with pytest.raises(MergeError, match="two different sets or more to merge, got 1"):
        a.merge(folder=tmp_path / "c")
    for other in (str(b.folder), [b]):
        with pytest.raises(TypeError, match=r"`others` must be of DistilledDataset, got .*open a"):
            a.merge(other, folder=tmp_path / "c")
    with pytest.raises(ValueError, match="new or empty"):
        a.merge(b, folder=tmp_path / "b")
