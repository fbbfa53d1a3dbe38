"""Every architecture of timm that is small enough serves as a backbone, or says why not."""

import pytest
import timm
import torch

import dd_plugin.convnet  # noqa: F401 - registers its networks
from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.errors import BackboneError
from tests.networks.models import check_head

_MOST_PARAMETERS = 12_000_000


def _is_small(name):
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except Exception:  # noqa: BLE001 - some cannot be made so; they are not tried
        return False
    return sum(parameter.numel() for parameter in model.parameters()) <= _MOST_PARAMETERS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", timm.list_models())
def test_it_serves_as_a_backbone(name):
    if not _is_small(name):
        pytest.skip("large, or cannot be made without memory")
    try:
        backbone = load_backbone(f"timm/{name}", pretrained=False)
    except BackboneError as error:
        pytest.xfail(str(error))
    check_head(backbone)
