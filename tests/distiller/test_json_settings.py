"""Settings that are dictionaries: as JSON from the command line, and without tokens."""

import traceback

import pytest

from dd_plugin.distiller import DistillerConfig


def test_dictionaries_may_be_json():
    config = DistillerConfig(model_args='{"width": 8}', inner_optimizer_args='{"momentum": 0.9}')
    assert config.model_args == {"width": 8}
    assert config.inner_optimizer_args == {"momentum": 0.9}


TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


def everything_about(error):
    """What any handler could print of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("name", ["token", "use_auth_token"])
@pytest.mark.parametrize("as_json", [True, False])
def test_tokens_have_no_place_in_the_arguments_of_a_model(name, as_json):
    arguments = f'{{"{name}": "{TOKEN}"}}' if as_json else {name: TOKEN}
    with pytest.raises(ValueError, match="published") as caught:
        DistillerConfig(model_args=arguments)
    assert TOKEN not in everything_about(caught.value)
