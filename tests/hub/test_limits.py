"""A small folder that asks for a lot: refused before it costs anything, with the way around it."""

import json
import resource

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from dd_plugin import DistilledDataset
from dd_plugin.hub.limits import DistilledFormatError, Limits
from dd_plugin.hub.reading import read_set
from dd_plugin.models import ModelLoadError
from tests.hub.toy import change_record, change_tensors, seal, write_toy

SIDE = 20_032


def shaped(folder, height, width, factor, count=4):
    """A set whose images are stored ``factor`` times smaller."""
    write_toy(folder, factor=8)
    change_record(folder, lambda record: record["recipe"].update(shape=[1, height, width]))
    small = torch.full((count, 1, height // factor, width // factor), 0.5)
    labels = torch.arange(count) % 2
    change_tensors(folder, small_images=small, labels=labels)
    change_record(folder, lambda record: record["images"].update(count=count))
    return folder


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(2048, 2048, 100), (64, 4096, 1100), (4096, 4096, 17)],
)
def test_small_images_that_would_grow_to_gigabytes(tmp_path, height, width, count):
    shaped(tmp_path, height, width, 64, count)
    before = peak()
    with pytest.raises(DistilledFormatError, match=r"bytes in full size, .* `max_expanded_bytes`"):
        DistilledDataset.from_pretrained(tmp_path)
    assert peak() - before < 100 << 20


def test_sets_that_are_stored_four_times_smaller_are_always_read(tmp_path):
    shaped(tmp_path, 32, 32, 4)
    assert len(DistilledDataset.from_pretrained(tmp_path, max_expanded_bytes=1)) == 4
    shaped(tmp_path, 32, 64, 8)
    with pytest.raises(DistilledFormatError, match="`max_expanded_bytes`"):
        DistilledDataset.from_pretrained(tmp_path, max_expanded_bytes=1)
    assert len(DistilledDataset.from_pretrained(tmp_path)) == 4


def test_augmented_copies_are_counted(tmp_path):
    write_toy(tmp_path, augmentation="flip", augmentations_per_step=200)
    assert len(DistilledDataset.from_pretrained(tmp_path)) == 4
    with pytest.raises(DistilledFormatError, match="200 augmented copies of images would have"):
        DistilledDataset.from_pretrained(tmp_path, max_expanded_bytes=100_000)
    write_toy(tmp_path, augmentation="flip", augmentations_per_step=16)
    assert len(DistilledDataset.from_pretrained(tmp_path, max_expanded_bytes=1)) == 4


def test_images_of_many_pixels(tmp_path):
    shaped(tmp_path, 64, SIDE, 64, 2)
    with pytest.raises(DistilledFormatError, match=r"side of 20,032 pixels.* `max_image_size`"):
        DistilledDataset.from_pretrained(tmp_path)
    assert len(DistilledDataset.from_pretrained(tmp_path, max_image_size=SIDE)) == 2


@pytest.mark.parametrize("steps", [100_001, 10_000_000])
def test_millions_of_steps(tmp_path, steps):
    write_toy(tmp_path)
    change_tensors(tmp_path, step_sizes=torch.tensor(0.1))
    change_record(tmp_path, lambda record: record["recipe"].update(steps=steps))
    with pytest.raises(DistilledFormatError, match=rf"asks for {steps:,} training .* `max_steps`"):
        DistilledDataset.from_pretrained(tmp_path)
    assert DistilledDataset.from_pretrained(tmp_path, max_steps=steps).recipe.steps == steps


def test_more_tensors_than_a_network_has(tmp_path):
    write_toy(tmp_path)
    change_tensors(tmp_path, **{f"initial.{i}": torch.empty(0) for i in range(30)})
    assert len(read_set(tmp_path).initial) == 30
    with pytest.raises(DistilledFormatError, match=r"has 33 tensors, .* 32; .* `max_tensors`"):
        DistilledDataset.from_pretrained(tmp_path, max_tensors=32)


def test_a_million_tensors_are_not_even_listed(tmp_path, monkeypatch):
    write_toy(tmp_path)
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"initial.{i}": entry for i in range(200_000)}).encode()
    content = len(header).to_bytes(8, "little") + header
    (tmp_path / "tensors.safetensors").write_bytes(content)
    seal(tmp_path)

    def opened(*args, **options):
        raise AssertionError("the header was read")

    monkeypatch.setattr("dd_plugin.hub.reading.safe_open", opened)
    with pytest.raises(DistilledFormatError, match="`max_tensors`"):
        DistilledDataset.from_pretrained(tmp_path)


def test_the_network_of_a_recipe(tmp_path):
    change = {"model": "timm/vit_7b_patch16_dinov3", "model_args": {}}
    change_record(write_toy(tmp_path), lambda record: record["recipe"].update(change))
    distilled = DistilledDataset.from_pretrained(tmp_path)
    before = peak()
    for call in (distilled.fit, distilled.new_network):
        with pytest.raises(ModelLoadError, match=r"more than 500,000,000 parameters; .*`max_para"):
            call()
    # Typing the name that the record has is not a wish for it.
    with pytest.raises(ModelLoadError, match="`max_parameters`"):
        distilled.fit("timm/vit_7b_patch16_dinov3")
    assert peak() - before < 500 << 20


def test_the_limit_of_parameters_can_be_raised_and_lowered(tmp_path):
    write_toy(tmp_path)
    size = sum(p.numel() for p in DistilledDataset.from_pretrained(tmp_path).fit().parameters())
    with pytest.raises(ModelLoadError, match=f"more than {size - 1:,} parameters"):
        DistilledDataset.from_pretrained(tmp_path, max_parameters=size - 1).fit()
    DistilledDataset.from_pretrained(tmp_path, max_parameters=size).fit()


def test_soft_labels_of_many_classes_take_no_memory_before_they_are_looked_at(tmp_path):
    names = [str(i) for i in range(300_000)]
    write_toy(tmp_path)
    count = 20_000
    change_record(tmp_path, lambda record: record["recipe"].update(class_names=names))
    change_record(tmp_path, lambda record: record["images"].update(count=count, per_class=1))
    change_record(tmp_path, lambda record: record["recipe"].update(shape=[1, 1, 1]))
    tensors = {"images": torch.zeros(count, 1, 1, 1), "labels": torch.zeros(count).long()}
    change_tensors(tmp_path, **tensors, soft_labels=torch.zeros(1))
    with pytest.raises(DistilledFormatError, match=r"soft_labels must be .* \(20000, 300000\)"):
        read_set(tmp_path)


def test_a_large_record_is_not_told_of_an_option_that_does_not_help(tmp_path):
    write_toy(tmp_path)
    with (tmp_path / "recipe.json").open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(DistilledFormatError, match=r"limit of 8,388,608 for a record") as found:
        DistilledDataset.from_pretrained(tmp_path, max_bytes=1 << 40)
    assert "max_bytes" not in str(found.value)


@pytest.mark.parametrize("name", ["tensors.safetensors", "data/train-00000-of-00001.parquet"])
def test_the_advice_to_raise_the_size_of_files_helps(tmp_path, name):
    write_toy(tmp_path)
    size = (tmp_path / name).stat().st_size
    with pytest.raises(DistilledFormatError, match="`max_bytes`"):
        read_set(tmp_path, limits=Limits(max_bytes=size - 1))
    larger = max(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    read_set(tmp_path, limits=Limits(max_bytes=larger))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rank=st.integers(0, 120),
    name=st.sampled_from(["images", "labels", "step_sizes", "soft_labels", "initial.x"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]),
)
def test_tensors_of_any_number_of_dimensions(tmp_path, rank, name, dtype):
    write_toy(tmp_path)
    one = {"one": torch.ones(1, dtype=dtype)}
    save_file(one, tmp_path / "one")
    kind = json.loads((tmp_path / "one").read_bytes()[8:].split(b"\0")[0].split(b"}}")[0] + b"}}")
    size = one["one"].element_size()
    header = {name: {**kind["one"], "shape": [1] * rank, "data_offsets": [0, size]}}
    content = json.dumps(header).encode()
    (tmp_path / "tensors.safetensors").write_bytes(
        len(content).to_bytes(8, "little") + content + b"\1" * size
    )
    seal(tmp_path)
    with pytest.raises(DistilledFormatError):
        read_set(tmp_path)
