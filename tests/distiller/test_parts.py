"""`dd_plugin.distiller.parts`: data, network and settings that do not fit are told at once."""

import pytest
from torch import nn

from dd_plugin.distiller import Distiller
from tests.distiller.toy import toy_config, toy_dataset


def test_bad_input_is_told_before_any_work(tmp_path):
    data = toy_dataset()
    cases = [
        (data.remove_columns("label"), {}, "label"),
        (data, {"images_per_class": 50}, "left"),
        (data, {"image_size": 2}, "2"),
        (data, {"model": "timm/no_such_net", "model_args": None}, "no architecture 'no_such_net'"),
    ]
    for dataset, options, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            Distiller(None, toy_config(tmp_path, **options), dataset).train()
    wrong_head = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(ValueError, match="7"):
        Distiller(wrong_head, toy_config(tmp_path), data)
    with pytest.raises(ValueError, match="no evaluation data"):
        Distiller(None, toy_config(tmp_path / "e"), data).evaluate()
