"""`dd_plugin.distiller.coercion`: values of settings as one types them, and their choices."""

from typing import Literal, Optional

import pytest
from transformers import HfArgumentParser

from dd_plugin.distiller import DistillerConfig
from dd_plugin.distiller.coercion import choices


@pytest.mark.parametrize(("word", "value"), [("false", False), ("No", False), ("on", True)])
def test_switches_in_quotes_mean_what_they_say(word, value):
    assert DistillerConfig(soft_labels=word).soft_labels is value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft_labels": "nope"}, "`soft_labels` must be true or false, got 'nope'"),
        ({"max_grad_norm": float("inf")}, "`max_grad_norm` must be a finite number, got inf"),
        ({"inner_lr": "nan"}, "`inner_lr` must be a finite number, got 'nan'"),
        ({"max_steps": None}, "`max_steps` must be a whole number, got None"),
        ({"window_length": "long"}, "`window_length` must be a whole number, or nothing, got"),
        ({"max_steps": True}, "`max_steps` must be a whole number, got True"),
        ({"dataset": None}, "`dataset` must be text, got None"),
        ({"dataset": 5}, "`dataset` must be text, got 5"),
    ],
)
def test_values_of_another_kind_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DistillerConfig(**options)


def test_a_parser_of_the_settings_changes_nothing():
    HfArgumentParser(DistillerConfig)  # puts types of its own into the fields
    assert DistillerConfig(soft_labels="false", max_steps="1e1").max_steps == 10


def test_optional_values_may_be_words_or_nothing(tmp_path):
    config = DistillerConfig(
        networks_per_step="2", image_size="1e1", save_total_limit=None, report_to=None
    )
    assert (config.networks_per_step, config.image_size) == (2, 10)
    assert (config.save_total_limit, config.report_to) == (None, [])
    assert DistillerConfig(output_dir=tmp_path).output_dir == str(tmp_path)
    assert DistillerConfig(compile=False, mixed_precision=False).compile == "no"


def test_choices_are_read_from_any_spelling_of_the_type():
    either = Literal["a", "b"]
    assert choices(either) == choices(either | None) == choices(Optional[either]) == ("a", "b")  # noqa: UP045
    assert choices(str) == choices(int | None) == choices(list[str] | str) == ()
