"""`dd_plugin.distiller.model_names`: names become settings, and nothing else does."""

import pytest
from torch import nn

from dd_plugin.distiller.model_names import names_as_settings
from tests.distiller.toy import toy_config


@pytest.mark.parametrize("names", ["timm/a", ["timm/a"], ["timm/a", "timm/b"], ("timm/a", "me/b")])
def test_names_are_settings(tmp_path, names):
    config, model_init = names_as_settings(toy_config(tmp_path, model_args=None), names)
    assert config.models == ((names,) if isinstance(names, str) else tuple(names))
    assert model_init is None


@pytest.mark.parametrize("model_init", [None, nn.Identity(), nn.Identity, ["timm/a", nn.Identity]])
def test_anything_else_is_left_as_it_is(tmp_path, model_init):
    config = toy_config(tmp_path)
    assert names_as_settings(config, model_init) == (config, model_init)
