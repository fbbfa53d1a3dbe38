"""The benchmark of sets on other networks: its ways, its files, and a toy run that is resumed."""

import io
import json

import pytest
import torch
from PIL import Image

from dd_plugin import DistillerConfig
from dd_plugin.data.parametrization import Upsampled
from dd_plugin.models import load_model
from tests.benchmarks import transfer, transfer_sets, transfer_ways
from tests.gpu.runs import CLASSES, pictures


@pytest.mark.parametrize("way", transfer_ways.WAYS)
@pytest.mark.parametrize("size", transfer_ways.SIZES)
@pytest.mark.parametrize("per_class", [1, 10])
def test_ways_are_possible_and_have_no_idle_setting(way, size, per_class):
    # Warnings are errors here: a setting without effect would fail.
    chosen = transfer_ways.settings(way, per_class=per_class, steps=400, size=size)
    config = DistillerConfig(**chosen, augmentation="flip", dataset="cifar10")
    assert config.soft_labels == way.startswith("labels of ")
    if config.init == "pool":
        assert config.pool_max_steps == 400
    if config.batching == "groups":
        assert config.inner_steps >= 2 * config.groups or config.groups == 1


@pytest.mark.parametrize("size", transfer_ways.SIZES)
def test_networks_take_small_images_and_are_not_distilled_with(size):
    networks = transfer_ways.SIZES[size]
    for name, network in networks.tested.items():
        for sources in (networks.widths, networks.kinds, networks.swin):
            assert (network in sources) == (name == transfer_ways.CONVNET)
    for network in (*networks.tested.values(), *networks.widths, *networks.kinds, *networks.swin):
        model = load_model(network.name, num_classes=10, img_size=32, **network.arguments)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_way_is_the_recipe_of_the_package():
    name = "whole+upsampled+pyramid+easiest+corrections+swin"
    way = transfer_ways.settings(name, per_class=10, steps=200, size="small")
    recipe = DistillerConfig.from_recipe("cifar10_transfer_ipc10")
    given = DistillerConfig(**way, dataset="cifar10")
    for name in way.keys() - {"model_args"}:
        assert getattr(given, name) == getattr(recipe, name)
    assert given.networks == recipe.networks
    assert given.augmentation == recipe.augmentation


def test_every_way_names_networks_that_there_are():
    for name, way in transfer_ways.WAYS.items():
        chosen = transfer_ways.settings(name, per_class=1, steps=4, size="small")
        several = way.get("networks", "one") != "one"
        assert (len(chosen["model"]) > 1) == several
        assert name.endswith(way.get("networks", "")) or not several


def test_png_files_of_a_set_hold_what_is_stored(tmp_path):
    labels = torch.arange(6).sort().values // 2
    stored = torch.rand(6, 3, 4, 4)
    about = {"factor": 2, "outer_steps": 5}
    transfer_sets.write(tmp_path / "set", stored, labels, ["a", "b", "c"], about)
    images, read = transfer_sets.read(tmp_path / "set")
    with Image.open(tmp_path / "set/images/b/00001.png") as file:
        assert file.size == (4, 4)
    eight_bit = (stored * 255).round() / 255
    assert torch.equal(images, Upsampled.of_stored(eight_bit, 2)().detach())
    assert torch.equal(read, labels)
    assert transfer_sets.about(tmp_path / "set") == about


def test_a_run_ends_in_time_with_its_rates_at_the_end_of_a_cosine(tmp_path, monkeypatch):
    chosen = transfer_ways.settings("short+upsampled", per_class=1, steps=4, size="toy")
    chosen |= {"compile": "no", "augmentation": "flip", "verify": False}
    now, rates = [0.0], []

    class Stepped(transfer_sets.TimedDistiller):
        def training_step(self):
            now[0] += 1.0
            rates.append(self.optimizer.param_groups[0]["lr"])
            return super().training_step()

    monkeypatch.setattr(transfer_sets, "TimedDistiller", Stepped)
    monkeypatch.setattr(transfer_sets, "seconds_now", lambda on_processor: now[0])
    about = transfer_sets.distilled(tmp_path / "set", chosen, pictures(40, 0), 3.5)
    # One before the clock starts, and four of one second each.
    assert about["outer_steps"] == 5
    assert about["factor"] == 2
    # Before the clock, and after 0, 1, 2 and 3 of 3.5 seconds.
    expected = [0.01, 0.01, 0.00811745, 0.00388740, 0.00049516]
    assert rates == pytest.approx(expected, rel=1e-5)
    images, labels = transfer_sets.read(tmp_path / "set")
    assert images.shape == (4 * CLASSES, 3, 16, 16)
    assert labels.bincount().tolist() == [4] * CLASSES


def _parquet(folder):
    import pyarrow
    from pyarrow import parquet

    for split, seed in (("train", 0), ("validation", 1)):
        images, labels = pictures(80, seed).tensors
        encoded = []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "png")
            encoded.append({"bytes": file.getvalue()})
        table = pyarrow.table({"image": encoded, "label": labels.tolist()})
        parquet.write_table(table, folder / f"{split}.parquet")
    return folder


def test_a_toy_run_goes_on_where_it_stopped(tmp_path, capsys):
    out = tmp_path / "out"
    command = [str(_parquet(tmp_path)), "--out", str(out), "--size", "toy", "--steps", "40"]
    command += ["--per_class", "2", "--repeats", "2", "--seconds", "0.1", "--compile", "no"]
    command += ["--controls", "random", "easiest", "--ways", "short", "--networks", "convnet"]
    command += ["--augmentation", "none", "--device", "cpu"]
    transfer.main([*command, "--minutes", "0"])
    first = (out / "rows.jsonl").read_text()
    assert first.count("\n") == 1
    assert "the same command continues" in capsys.readouterr().out
    transfer.main([*command, "--json", str(tmp_path / "rows.json")])
    assert (out / "rows.jsonl").read_text().startswith(first)
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["set"] for row in rows] == ["random", "easiest", "short"]
    # The classes of these images are easy: whatever is trained on them is better than chance.
    for row in rows:
        assert len(row["accuracies"]) == 2
        assert min(row["accuracies"]) > 0.5
    assert rows[0]["steps"] == 40
    transfer.main(command)
    assert len((out / "rows.jsonl").read_text().splitlines()) == 3


def test_learned_labels_are_read_in_the_order_of_the_files(tmp_path):
    labels = torch.tensor([2, 0, 1, 0])
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8) / 255
    learned = torch.rand(4, 3).softmax(1)
    transfer_sets.write(tmp_path, images, labels, ["a", "b", "c"], {}, learned)
    read, found = transfer_sets.read(tmp_path)
    for image, row in zip(read, found, strict=True):
        assert torch.equal(row, learned[int(255 * image.max() + 0.5)])


def test_random_images_are_drawn_for_each_network_and_chosen_ones_are_not(tmp_path):
    data = transfer.load_real(pictures(40, 0))
    coresets = transfer.RealCoresets(data, lambda: torch.arange(40.0))
    drawn = [transfer_sets.real(coresets, data, "random", 1, seed)[0] for seed in (0, 1)]
    assert not torch.equal(*drawn)
    for name in transfer_sets.CHOSEN:
        one, other = (transfer_sets.real(coresets, data, name, 2, seed) for seed in (0, 1))
        assert torch.equal(one[0], other[0])
        assert one[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("name", ["random", "herding"])
def test_images_of_half_size_are_four_times_as_many_in_the_same_storage(name):
    data = transfer.load_real(pictures(40, 0))
    coresets = transfer.RealCoresets(data)
    control = f"{name}{transfer_sets.HALF_SIZE}"
    assert control in transfer_sets.CONTROLS
    half, labels = transfer_sets.real(coresets, data, control, 2, 3)
    full, of_full = transfer_sets.real(coresets, data, name, 8, 3)
    assert torch.equal(labels, of_full)
    small = torch.nn.functional.avg_pool2d(full, 2)
    small = (small * 255).round() / 255
    expected = torch.nn.functional.interpolate(
        small, (16, 16), mode="bilinear", align_corners=False
    )
    assert torch.allclose(half, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "bordered"), [((28, 28), (32, 32)), ((32, 32), (32, 32)), ((31, 40), (32, 40))]
)
def test_small_images_get_a_black_border(size, bordered):
    images = torch.ones(2, 1, *size, dtype=torch.uint8)
    found = transfer.bordered(images)
    assert found.shape == (2, 1, *bordered)
    assert found.dtype == torch.uint8
    assert found.sum() == images.sum()
    top, left = ((b - s) // 2 for b, s in zip(bordered, size, strict=True))
    assert torch.equal(found[..., top : top + size[0], left : left + size[1]], images)


def test_a_table_takes_seeds_together():
    row = {"set": "short", "network": "vit"}
    rows = [{**row, "seed": 0, "accuracies": [0.3]}, {**row, "seed": 1, "accuracies": [0.5]}]
    rows += [{"set": "random", "network": "convnet", "seed": 0, "accuracies": [0.125]}]
    assert transfer.table(rows).splitlines() == [
        "| set | vit | convnet |",
        "|---|---:|---:|",
        "| short | 40.0 ± 14.1 |  |",
        "| random |  | 12.5 |",
    ]


def test_an_unknown_network_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        transfer.main([str(tmp_path), "--out", str(tmp_path), "--networks", "lenet"])
    assert "--networks must be of convnet, resnet18" in capsys.readouterr().err
