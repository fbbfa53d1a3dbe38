"""The card says what the record says, all of it and nothing else, whatever is in the record."""

import datetime
import json
import re
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, DatasetCardData

from dd_plugin.hub.folder import write_set
from tests.hub.card.parts import rows, sections
from tests.hub.records import CLASSES, a_record, a_set, bare_record, card_of

EXPECTED = Path(__file__).with_name("expected_card.md")


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


def test_load_dataset_with_the_card_in_place(tmp_path):
    write_set(tmp_path / "set", a_set())
    assert "dd_plugin:begin" in (tmp_path / "set" / "README.md").read_text()
    loaded = load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"].features["label"].names == list(CLASSES)
    assert loaded["train"]["label"] == [0, 0, 1, 1, 2, 2]


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


def test_no_clock(monkeypatch):
    card = card_of(a_record())
    assert str(datetime.date.today().year) not in re.sub(r"```.*?```", "", card, flags=re.DOTALL)
