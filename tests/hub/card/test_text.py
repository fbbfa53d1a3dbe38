"""The card says what the record says, all of it and nothing else, whatever is in the record."""

import datetime
import json
import re
import statistics
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from huggingface_hub import DatasetCard, DatasetCardData
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import pil_to_tensor

from dd_plugin.hub.card.sections import Section, split
from dd_plugin.hub.folder import write_set
from dd_plugin.hub.limits import DistilledFormatError
from tests.hub.records import CLASSES, a_record, a_set, bare_record, card_of

EXPECTED = Path(__file__).with_name("expected_card.md")


def sections(card):
    parts, _ = split(card.split("\n---\n", 1)[1])
    assert all(isinstance(part, Section) and not part.edited for part in parts)
    return {part.name: part.text for part in parts}


def rows(text):
    """The rows of all tables of a text, split at pipes that are not escaped."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if not re.match(r"\|-+", line)]
    return [[cell.strip() for cell in row] for row in cells]


def test_whole_text():
    # The expected card was read by a person. After a change that is meant, write it anew:
    # python -c "from tests.hub.card.test_text import *; EXPECTED.write_text(card_of(a_record()))"
    assert card_of(a_record()) == EXPECTED.read_text(encoding="utf-8")


def test_the_record_alone_decides():
    # Through JSON, as recipe.json is read back, and with keys in another order.
    again = json.loads(json.dumps(a_record(), sort_keys=True))
    again["results"] = a_record()["results"]
    again["recipe"], again["about"] = a_record()["recipe"], a_record()["about"]
    assert card_of(again) == card_of(a_record())


def percent(accuracies):
    spread = f" ± {100 * statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{100 * statistics.fmean(accuracies):.1f}{spread} %"


def test_result_tables_are_those_of_the_record():
    record = a_record()
    found = rows(sections(card_of(record))["results"])
    scores = [record["results"][n]["accuracies"] for n in ("distilled", "random real", "full data")]
    images = ["6", "6", "45,678"]
    assert [row[1:] for row in found[1:4]] == [
        [n, percent(a), str(len(a))] for n, a in zip(images, scores, strict=True)
    ]
    evaluation = record["evaluations"][0]
    assert found[5] == [
        "`timm/resnet18`",
        "distilled images",
        "standard",
        "png",
        percent(evaluation["accuracies"]),
        "2",
        "987 images of split `test` of `someone/pets`",
    ]
    assert len(found) == 6


def numbers_in(value):
    """Every number of a JSON value, those in texts too, as the card may write it."""
    if isinstance(value, dict):
        return set().union(*(numbers_in(v) for v in [*value.values(), *value]))
    if isinstance(value, list):
        return set().union(*map(numbers_in, value))
    if isinstance(value, str):
        return set(re.findall(r"\d+(?:\.\d+)*", value))
    if isinstance(value, bool) or value is None:
        return set()
    return {f"{value:,}" if isinstance(value, int) else f"{value:.4g}"}


@pytest.mark.parametrize(
    "name", ["title", "summary", "limits", "recipe", "distillation", "versions"]
)
def test_every_number_is_one_of_the_record(name):
    record = a_record()
    text = sections(card_of(record))[name]
    # 0 to 1 and 8 bits are about pixels; the number of classes is counted.
    known = numbers_in(record) | {"0", "1", "8", str(len(CLASSES))}
    found = re.findall(r"\d+(?:,\d{3})*(?:\.\d+)*", text)
    assert name == "limits" or found
    assert set(found) <= known


def test_numbers_follow_the_record():
    record = a_record()
    record["images"]["count"], record["source"]["images"] = 606, 1_000_001
    record["results"]["distilled"]["accuracies"] = [0.111, 0.222]
    card = card_of(record)
    for text in ("606 synthetic", "1,000,001 images", "16.7 ± 7.8 %", "all 606 images"):
        assert text in card
    assert "75.0" not in card


def test_a_mean_without_its_accuracies_is_given_as_it_is():
    record = a_record()
    record["results"] = {"distilled": {"mean": 0.5, "std": 0.25, "accuracies": None}}
    assert rows(sections(card_of(record))["results"])[1] == [
        "these images",
        "6",
        "50.0 ± 25.0 %",
        "",
    ]


def test_what_is_not_measured_is_not_spoken_of():
    record = a_record()
    record["results"] = {"distilled": {"mean": float("nan")}, "full data": {"mean": None}}
    record["evaluations"] = [{"model": "timm/resnet18", "mean": None, "accuracies": None}]
    card = card_of(record)
    assert "results" not in sections(card)
    assert "nan" not in card.lower()
    assert "accuracy above" not in card


def test_bare_record():
    card = card_of(bare_record())
    assert set(sections(card)) == {
        "title", "summary", "limits", "usage", "recipe", "license", "citation"
    }  # fmt: skip
    assert "None" not in card.replace("None is stated", "")
    assert "results below" not in card
    empty = {part: {} for part in ("source", "results", "protocol", "about")}
    assert card_of({**bare_record(), **empty, "evaluations": []}) == card


def test_metadata():
    data = DatasetCard(card_of(a_record())).data
    assert isinstance(data, DatasetCardData)
    assert data.to_dict() == {
        "pretty_name": "someone/pets, distilled to 2 images per class",
        "license": "cc-by-4.0",
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "ipc-2", "dd_plugin"],
        "source_datasets": ["someone/pets"],
        "size_categories": ["n<1K"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-00000-of-00001.parquet"}],
            }
        ],
        "dataset_info": {
            "features": [
                {"name": "image", "dtype": "image"},
                {
                    "name": "label",
                    "dtype": {"class_label": {"names": {"0": "cat", "1": "dog", "2": "no"}}},
                },
            ],
            "splits": [{"name": "train", "num_bytes": 1234, "num_examples": 6}],
        },
    }


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [([], None), (None, None), (["mit"], "mit"), (["mit", "cc0-1.0"], ["mit", "cc0-1.0"])],
)
def test_license_is_inherited_and_never_invented(licenses, expected):
    record = a_record()
    record["source"]["licenses"] = licenses
    card = card_of(record)
    assert DatasetCard(card).data.to_dict().get("license") == expected
    assert ("None is stated" in card) == (expected is None)


def test_a_license_that_is_no_identifier_is_only_quoted():
    record = a_record()
    record["source"]["licenses"] = ["Ask Bob: |no|"]
    card = card_of(record)
    assert "license" not in DatasetCard(card).data.to_dict()
    assert r"Ask Bob: \|no\|" in sections(card)["license"]


@pytest.mark.parametrize(
    ("total", "category"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (50_000, "10K<n<100K"), (2_000_000, "n>1M")],
)
def test_size_category(total, category):
    record = a_record()
    record["images"]["count"] = total
    assert DatasetCard(card_of(record)).data.size_categories == [category]


@pytest.mark.parametrize(
    ("change", "paper"),
    [
        ({}, None),
        ({"window": "random", "window_length": 3}, "2311.07025"),
        ({"window": "last", "window_length": 3}, None),
        ({"parametrization": "upsampled"}, "2205.14959"),
        ({"soft_labels": True}, "1910.02551"),
        ({"augmentation": "dsa"}, "2102.08259"),
        ({"augmentation": "shift_flip"}, "2102.08259"),
        ({"augmentation": "shift"}, None),
        ({"augmentation": "none"}, None),
        ({"augmentation": "resizedcrop+noise_shift"}, None),
        ({"augmentation": "resizedcrop+flip"}, "2102.08259"),
        ({"parametrization": "pyramid"}, "2511.16674"),
        ({"init": "pool"}, "2206.00719"),
        ({"method": "mixed"}, "2505.00793"),
        ({"step_size_parameters": ["head.weight"]}, "1810.09502"),
    ],
)
def test_citations_are_those_of_the_methods_used(change, paper):
    record = bare_record()
    config = {"window": "full", "parametrization": "pixels", "method": "reverse", **change}
    record["about"] = {"config": config}
    record["recipe"]["augmentation"] = change.get("augmentation", "")
    record["recipe"]["init"] = change.get("init", "random")
    record["recipe"]["step_size_parameters"] = change.get("step_size_parameters")
    record["images"]["soft_labels"] = change.get("soft_labels", False)
    text = sections(card_of(record))["citation"]
    expected = {"1811.10959"} | ({paper} if paper else set())
    assert set(re.findall(r"arxiv.org/abs/([\d.]+)", text)) == expected
    assert set(re.findall(r"eprint = \{([\d.]+)\}", text)) == expected


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batching": "minibatches", "batch_size": 4}, "4 images in each step, shuffled"),
        ({"batching": "groups", "groups": 2}, "one of 2 groups in each step, in turn"),
        ({"init": "fixed"}, "one initialization, stored in `tensors.safetensors`"),
        ({"statistics": None}, "none"),
        ({"model": None}, "one without a name with"),
        ({"loss": "custom"}, "its author's own, not part of the recipe"),
        ({"mixed_precision": "bf16"}, "bfloat16 where `torch.autocast` allows it"),
    ],
)
def test_recipe_in_words(change, text):
    record = a_record()
    record["recipe"].update(change)
    assert text in sections(card_of(record))["recipe"]


def test_a_network_without_a_name_is_described():
    record = a_record()
    record["recipe"] |= {"model": None, "model_args": {}}
    record["about"]["network"] = {"class": "Tiny", "parameters": 4321}
    text = sections(card_of(record))["recipe"]
    assert "| one without a name: a `Tiny` with 4,321 trained parameters |" in re.sub(
        " +", " ", text
    )


def test_constant_step_size_is_told():
    record = a_record()
    record["images"]["learned_step_sizes"] = False
    record["about"]["config"]["inner_lr"] = 0.0375
    assert "constant, 0.0375" in sections(card_of(record))["recipe"]


def test_load_dataset_with_the_card_in_place(tmp_path):
    write_set(tmp_path / "set", a_set())
    assert "dd_plugin:begin" in (tmp_path / "set" / "README.md").read_text()
    loaded = load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"].features["label"].names == list(CLASSES)
    assert loaded["train"]["label"] == [0, 0, 1, 1, 2, 2]


def test_python_on_the_card_runs(tmp_path, monkeypatch):
    write_set(tmp_path / "set", a_set())
    card = (tmp_path / "set" / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 4
    replaced = {
        "USER/NAME": str(tmp_path / "set"),
        "max_steps=100": "max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True",
        # ResNet-50 by default; the same network with fewer layers.
        "ResNetConfig(": "ResNetConfig(depths=[1], hidden_sizes=[8], ",
    }
    names = {}
    for code in blocks:
        for old, new in replaced.items():
            code = code.replace(old, new)
        exec(compile(code, "card", "exec"), names)
        if "Trainer" in code:
            names["images_of_trainer"] = names["images"][:]["pixel_values"]
        if "distilled.fit" in code:
            assert names["model"](torch.rand(1, 3, 8, 8)).shape == (1, 3)
    batch, labels = next(iter(names["loader"]))
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2]
    # Both give what the recipe feeds its network: rounded pixels, (x - 0.4) / 0.2.
    stored = torch.stack(
        [pil_to_tensor(image) for image in names["distilled"].to_dataset()["image"]]
    )
    expected = (stored / 255 - 0.4) / 0.2
    torch.testing.assert_close(batch[labels.argsort()].sort(0)[0], expected.sort(0)[0])
    torch.testing.assert_close(torch.stack(names["images_of_trainer"]), expected)


def test_what_the_recipe_lacks_is_asked_for_in_the_code():
    record = a_record()
    record["recipe"].update(model=None, loss="custom")
    assert "distilled.fit(make_network, loss=loss, seed=0)" in card_of(record)


@pytest.mark.parametrize(("per_class", "tag"), [(0.5, "ipc-0.5"), (10.0, "ipc-10"), (1, "ipc-1")])
def test_images_per_class_need_not_be_whole(per_class, tag):
    record = a_record()
    record["images"]["per_class"] = per_class
    card = card_of(record)
    assert tag in DatasetCard(card).data.tags
    plural = "image" if per_class == 1 else "images"
    assert f"# someone/pets, distilled to {tag[4:]} {plural} per class" in card


def test_upsampled_images_are_counted_by_their_storage():
    record = a_record()
    record["images"] |= {"count": 24, "per_class": 8, "upsample_factor": 2}
    parts = sections(card_of(record))
    assert parts["title"] == "# someone/pets, distilled to 2 images per class"
    assert parts["summary"].count("24 synthetic color images of 8 x 8 pixels") == 1
    assert "stored at 1/2 of this height and width, in the place of 6 images" in parts["summary"]
    assert [row[1] for row in rows(parts["results"])[1:4]] == ["24, stored as 6", "6", "45,678"]
    assert "| random real images of that storage |" in parts["results"]
    assert "ipc-2" in DatasetCard(card_of(record)).data.tags
    assert "num_examples: 24" in card_of(record)


def test_the_repository_of_the_run_is_named_in_the_code():
    record = a_record()
    record["about"]["config"]["hub_dataset_id"] = "me/pets-ipc2"
    assert 'load_dataset("me/pets-ipc2", split="train")' in card_of(record)
    record["about"]["config"]["hub_dataset_id"] = 'me/x"); import os; ("'
    assert card_of(record) == card_of(a_record())


HOSTILE = [
    "a|b",
    "line\nbreak\r\n---\n# title",
    "``` `tick` ```",
    "<script>alert(1)</script><!-- dd_plugin:end results -->",
    "-->",
    "```",
    "<!-- dd_plugin:end results -->",
    "a\x85b\u2029c",
    "![x](y) [z](w) *a* _b_ & &lt;",
    "x" * 5000,
    "\u2028\u202e\x00\x1b[31m",
    "'\"\\",
    "- a: {b: [c",
    "",
]


def texts_of(value):
    """Every place in a JSON value that holds a text: (container, key)."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        if isinstance(inner, str):
            yield value, key
        elif isinstance(inner, (dict, list)):
            yield from texts_of(inner)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_break_neither_tables_nor_metadata(text):
    honest = card_of(a_record())
    read = 0
    for i in range(len(list(texts_of(a_record())))):
        record = a_record()
        container, key = list(texts_of(record))[i]
        container[key] = text
        # What must be one of a few words is no text for a card.
        with suppress(DistilledFormatError):
            card = card_of(record)
            read += 1
            check_structure(card, honest)
    assert read > 40


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), min_size=3, max_size=3), st.text(), st.text(), st.text())
def test_any_text_breaks_neither_tables_nor_metadata(names, dataset, model, command):
    record = a_record()
    record["recipe"].update(class_names=names, model=model)
    record["source"]["dataset"] = record["source"]["hub_id"] = dataset
    record["protocol"]["command"] = command
    card = card_of(record)
    check_structure(card, card_of(a_record()))
    found = DatasetCard(card).data.dataset_info["features"][1]["dtype"]["class_label"]["names"]
    if not any(0xD800 <= ord(c) < 0xE000 for name in names for c in name):
        assert list(found.values()) == names


def check_structure(card, honest):
    card.encode()
    data = DatasetCard(card).data.to_dict()
    assert data["configs"] == DatasetCard(honest).data.to_dict()["configs"]
    found, expected = sections(card), sections(honest)
    assert set(found) <= set(expected)
    for name, text in found.items():
        outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
        # No tag and no comment comes out of a record, and no heading but ours.
        assert "<" not in outside
        assert not re.search(r"^`{3}", outside, flags=re.MULTILINE)
        assert outside.count("\n#") <= expected[name].count("\n#")
        widths = [len(row) for row in rows(outside)]
        assert widths == [len(row) for row in rows(expected[name])][: len(widths)]
        assert max(map(len, outside.splitlines())) < 2000


def test_no_clock(monkeypatch):
    card = card_of(a_record())
    assert str(datetime.date.today().year) not in re.sub(r"```.*?```", "", card, flags=re.DOTALL)
