"""`dd_plugin.distiller.defaults`: the network of a run that names none."""

import pytest
import torch

from dd_plugin.distiller import Distiller
from dd_plugin.distiller.defaults import default_arguments
from dd_plugin.distiller.setting_groups import DEFAULT_ARGUMENTS, DEFAULT_MODEL
from dd_plugin.models import load_model
from tests.distiller.toy import toy_config, toy_dataset


@pytest.mark.parametrize(
    ("shape", "classes", "width", "depth"),
    [
        ((1, 8, 8), 10, 32, 2),
        ((1, 28, 28), 10, 32, 3),
        ((3, 32, 32), 100, 128, 3),
        ((3, 64, 64), 2, 32, 4),
        ((3, 64, 200), 33, 64, 4),
        ((3, 128, 128), 1000, 128, 5),
        ((3, 224, 224), 5, 32, 5),
        ((1, 4, 4), 2, 32, 2),
        ((1, 2, 2), 2, 32, 1),
    ],
)
def test_depth_fits_the_images_and_width_the_classes(shape, classes, width, depth):
    arguments = default_arguments(shape, classes)
    assert arguments == {"width": width, "depth": depth, "norm_layer": "batchnorm2d"}
    network = load_model(
        DEFAULT_MODEL, num_classes=classes, in_chans=shape[0], img_size=shape[1:], **arguments
    )
    assert network(torch.rand(2, *shape)).shape == (2, classes)


def test_the_digits_are_a_case_of_the_rule():
    assert default_arguments((1, 8, 8), 10) == DEFAULT_ARGUMENTS


def test_a_run_takes_it_only_if_nothing_is_said_of_the_network(tmp_path):
    def arguments(**options):
        config = toy_config(tmp_path, **options)
        return dict(Distiller(None, config, toy_dataset(size=16)).synthetic.recipe.model_args)

    assert arguments(model_args=None) == default_arguments((1, 16, 16), 3)
    assert arguments(model_args={"width": 8}) == {"width": 8}
    assert arguments(model="timm/dd_lenet", model_args=None) == {}
