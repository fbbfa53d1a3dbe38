"""The Python on a card runs as it stands there."""

import re

import torch
from torchvision.transforms.functional import pil_to_tensor

from dd_plugin.hub.folder import write_set
from tests.hub.records import a_record, a_set, card_of


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


def test_the_repository_of_the_run_is_named_in_the_code():
    record = a_record()
    record["about"]["config"]["hub_dataset_id"] = "me/pets-ipc2"
    assert 'load_dataset("me/pets-ipc2", split="train")' in card_of(record)
    record["about"]["config"]["hub_dataset_id"] = 'me/x"); import os; ("'
    assert card_of(record) == card_of(a_record())
