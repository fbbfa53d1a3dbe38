"""The private names of the layers where torch has them no more."""

import torch
from torch import nn

from dd_plugin.bn import convert_bn
from tests.bn.processes import run_fresh

# torch is imported once; each name is hidden in a fork.
WITHOUT = """
import os, sys, torch
from tests.without_names import hide
for name in sys.argv[1:]:
    if os.fork() == 0:
        hide(torch.nn.Module, name)
        try:
            import dd_plugin.bn
        except ImportError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
"""
PROTOCOL = ["_parameters", "_non_persistent_buffers_set", "_save_to_state_dict", "_apply"]


def test_a_torch_without_the_protocol_of_modules_is_refused():
    said = run_fresh(WITHOUT, *PROTOCOL).splitlines()
    for name, line in zip(PROTOCOL, said, strict=True):
        assert f"has no torch.nn.Module.{name}, which dd_plugin needs" in line
        assert "install an older torch, or a newer dd_plugin" in line


def test_a_layer_without_torchs_check_of_dimensions_still_normalizes(monkeypatch):
    monkeypatch.delattr(nn.BatchNorm2d, "_check_input_dim")
    monkeypatch.setattr(nn.modules.batchnorm._NormBase, "_check_input_dim", None)
    layer = convert_bn(nn.BatchNorm2d(3))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(layer(x).mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
