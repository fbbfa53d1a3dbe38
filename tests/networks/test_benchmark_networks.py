"""`dd_plugin.networks.benchmark_networks`: what timm would make, made without it."""

import subprocess
import sys

import pytest
import timm
import torch

import dd_plugin.networks.convnet  # noqa: F401 - registers the networks
from dd_plugin.networks.benchmark_networks import NETWORKS, benchmark_maker
from dd_plugin.networks.errors import ModelLoadError
from dd_plugin.networks.names import load_model


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dd_convnet", {}),
        ("dd_convnet", {"width": 8, "depth": 2, "norm_layer": "batchnorm2d", "img_size": 8}),
        (
            "dd_convnet",
            {"in_chans": 1, "img_size": (20, 28), "num_classes": 3, "global_pool": "avg"},
        ),
        ("dd_convnet", {"norm_layer": "layernorm2d", "width": 4, "init": "xavier"}),
        ("dd_lenet", {}),
        ("dd_lenet", {"in_chans": 1, "img_size": 28, "norm_layer": "batchnorm", "drop_rate": 0.5}),
    ],
)
def test_it_is_the_network_of_timm_to_the_bit(name, arguments):
    torch.manual_seed(7)
    theirs = timm.create_model(name, **arguments)
    torch.manual_seed(7)
    ours = benchmark_maker(name, arguments)()
    assert str(ours) == str(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[key])
    # All that timm says of it, but for what is the same for every model.
    assert ours.default_cfg is ours.pretrained_cfg
    common = {key: theirs.pretrained_cfg[key] for key in ours.pretrained_cfg}
    assert ours.pretrained_cfg == common
    plain = timm.models.PretrainedCfg()
    for key, value in theirs.pretrained_cfg.items():
        assert key in common or value == getattr(plain, key)
    assert timm.data.resolve_model_data_config(ours) == timm.data.resolve_model_data_config(theirs)


def test_what_only_timm_knows_is_left_to_it():
    assert benchmark_maker("resnet18", {}) is None
    assert benchmark_maker("dd_convnet", {"features_only": True}) is None
    maps = load_model("timm/dd_convnet", features_only=True)(torch.rand(2, 3, 32, 32))
    assert len(maps) == 3


def test_each_is_new_and_the_table_stays():
    make = benchmark_maker("dd_convnet", {"in_chans": 1})
    one, other = make(), make()
    assert one is not other
    assert one.pretrained_cfg is not other.pretrained_cfg
    assert benchmark_maker("dd_convnet", {})().pretrained_cfg["input_size"] == (3, 32, 32)


def test_errors_are_those_of_a_name_of_timm():
    with pytest.raises(
        ModelLoadError, match="timm could not make 'dd_convnet': `width` and `depth`"
    ):
        load_model("timm/dd_convnet", width=0)
    with pytest.raises(ModelLoadError, match="takes no argument 'wide'"):
        load_model("timm/dd_convnet", wide=3)
    with pytest.raises(
        ModelLoadError, match="could not make 'dd_lenet': No pretrained weights exist"
    ):
        load_model("timm/dd_lenet", pretrained=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_name_makes_them_without_timm(name):
    code = (
        "import sys\nfrom dd_plugin.models import load_model\n"
        f"load_model('timm/{name}', norm_layer='batchnorm2d')\nassert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
