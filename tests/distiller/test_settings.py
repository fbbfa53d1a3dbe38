"""`dd_plugin.distiller.settings`: what follows from several settings together."""

from dataclasses import fields

import pytest

from dd_plugin.distiller.settings import GROUPS, Settings


def test_the_groups_share_out_all_settings_in_the_order_of_the_help():
    names = [field.name for group in GROUPS.values() for field in fields(group)]
    assert names == [field.name for field in fields(Settings)]
    assert len(set(names)) == len(names)


def test_each_network_has_its_arguments():
    two = ["timm/a", "timm/b"]
    shared = Settings(model=two, model_args={"width": 4}).networks
    assert shared == (("timm/a", {"width": 4}), ("timm/b", {"width": 4}))
    own = Settings(model=two, model_args=[{"width": 4}, {}]).networks
    assert own == (("timm/a", {"width": 4}), ("timm/b", {}))


@pytest.mark.parametrize("text", ["", "none", " None "])
def test_no_augmentation_by_any_name(text):
    assert not Settings(augmentation=text).is_augmented
    assert Settings(augmentation="flip").is_augmented


def test_upsampled_images_are_more_than_are_stored():
    options = {"images_per_class": 2, "upsample_factor": 3}
    assert Settings(**options).trained_per_class == 2
    assert Settings(**options, parametrization="upsampled").trained_per_class == 18
    assert Settings(**options, parametrization="upsampled_pyramid").trained_per_class == 18
