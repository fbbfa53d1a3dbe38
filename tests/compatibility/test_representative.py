"""A dozen models of different kinds through all checks of the sweep, in every test run.

Whether `TIMM_FAMILIES` covers what timm has is checked here too: by name in every run, and by
building each architecture without memory in the slow one.
"""

import pytest
import timm
import torch
from timm.models import _registry

from dd_plugin.bn.plan import find_batch_norms
from tests.compatibility.catalogue import models
from tests.compatibility.checks import CHECKS, check_model
from tests.compatibility.timm_models import FAMILIES_WITHOUT_BATCH_NORM, TIMM_FAMILIES

pytestmark = [
    # On import of some model files, about torch's own deprecations.
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*lru_cache"),
]

REPRESENTATIVE = [
    "timm test_resnet",  # BatchNorm2d, zero-initialised last gammas
    "timm test_resnet, SplitBatchNorm2d",
    "timm test_resnet, FrozenBatchNorm2d",
    "timm test_efficientnet",  # BatchNormAct2d, squeeze and excite
    "timm test_byobnet",  # timm's configurable nets
    "timm test_maxvit",  # attention among convolutions
    "timm mobilenetv3_small_050",  # hardsigmoid
    "timm levit_128s",  # BatchNorm1d, attention biases cached in eval mode
    "timm efficientvit_b0",  # linear attention
    "transformers ResNetForImageClassification",
    "transformers MobileNetV2ForImageClassification",
    "transformers DetrForObjectDetection/timm",  # a detector on a backbone of timm
    "transformers ConditionalDetrForObjectDetection",  # frozen layers of its own
]


@pytest.fixture(scope="module")
def catalogue():
    return models()


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_model(name, catalogue):
    result = check_model(name, catalogue[name], reraise=True)
    assert result.checks.keys() == CHECKS.keys()
    assert result.failures() == {}
    assert sum(result.layers.values()) > 0


def test_each_family_of_timm_is_known():
    # This package registers networks of its own.
    names = [name for name in timm.list_models() if not name.startswith("dd_")]
    families = {_registry._model_to_module[name] for name in names}
    assert families <= TIMM_FAMILIES.keys() | FAMILIES_WITHOUT_BATCH_NORM
    assert not TIMM_FAMILIES.keys() & FAMILIES_WITHOUT_BATCH_NORM


@pytest.mark.slow
def test_families_left_out_have_no_batch_norm():
    found = []
    for name in timm.list_models():
        if _registry._model_to_module[name] in FAMILIES_WITHOUT_BATCH_NORM:
            with torch.device("meta"):
                model = timm.create_model(name)
            if find_batch_norms(model):
                found.append(name)
    assert found == []


@pytest.mark.slow
def test_each_model(catalogue):
    results = [check_model(name, build) for name, build in catalogue.items()]
    assert {r.name: r.failures() for r in results if not r.passed} == {}
