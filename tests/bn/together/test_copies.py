"""A converted model copied, pickled, stored, moved and made on the meta device."""

import copy
import io
import pickle

import pytest
import safetensors.torch
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from dd_plugin.bn import convert_bn, converted_layers, revert_bn, tracking_tensors
from dd_plugin.bn.policy import STATISTICS
from tests.bn.networks import (
    batches,
    both_modes,
    classes,
    images,
    network,
    policies,
    small_network,
    train,
)
from tests.bn.processes import run_fresh

# torch's own, when it imports its forward-mode decompositions or its compiler.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script.*", "ignore:.*is deprecated:DeprecationWarning"
)


@policies
@both_modes
def test_deepcopy_and_pickle(statistics, train_with):
    model = convert_bn(network(), statistics, train_with)
    train(model, batches(2))
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies.append(torch.load(file, weights_only=False))
    x = batches(1)[0]
    for one in copies:
        assert [type(m) for m in one.modules()] == [type(m) for m in model.modules()]
        assert list(one.state_dict()) == list(model.state_dict())
        assert torch.equal(one.eval()(x), model.eval()(x))
        assert torch.equal(copy.deepcopy(one).train()(x), copy.deepcopy(model).train()(x))
    deep = copies[0]
    assert {id(p) for p in deep.parameters()}.isdisjoint(id(p) for p in model.parameters())
    revert_bn(deep)
    assert len(converted_layers(model)) == 2
    assert [type(m) for m in deep.modules()] == [type(m) for m in network().modules()]


def test_a_fresh_process_unpickles(tmp_path):
    x = batches(1)[0]
    for statistics in STATISTICS:
        model = convert_bn(network(), statistics)
        train(model, batches(2))
        (tmp_path / f"{statistics}.pickle").write_bytes(pickle.dumps(model.eval()))
        torch.save({"model": model, "x": x, "y": model(x)}, tmp_path / f"{statistics}.pt")
    code = """
import pickle, sys, torch
for statistics in ("learned", "tracked", "frozen"):
    path = f"{sys.argv[1]}/{statistics}"
    first = pickle.load(open(path + ".pickle", "rb"))
    saved = torch.load(path + ".pt", weights_only=False)
    for model in (first, saved["model"]):
        assert torch.equal(model(saved["x"]), saved["y"])
        from dd_plugin.bn import revert_bn
        print(type(model[1]).__name__, type(model[3]).__name__, model[1].statistics, end=" ")
        print(type(revert_bn(model)[3]).__name__)
"""
    assert run_fresh(code, tmp_path).splitlines() == [
        f"LearnableBatchNorm2d LearnableBatchNormAct2d {statistics} BatchNormAct2d"
        for statistics in STATISTICS
        for _ in range(2)
    ]


@policies
def test_safetensors(statistics, tmp_path):
    path = tmp_path / "model.safetensors"
    model, stock = convert_bn(small_network().eval(), statistics), small_network()
    safetensors.torch.save_model(model, str(path))
    for other in (stock, convert_bn(small_network(), statistics)):
        for buffer in other.buffers():
            buffer.zero_()
        assert safetensors.torch.load_model(other, str(path)) == (set(), [])
        torch.testing.assert_close(other.eval()(images()), model(images()))


@policies
def test_change_of_dtype(statistics):
    stock, model = small_network().eval(), convert_bn(small_network().eval(), statistics)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        y = model.to(dtype)(images().to(dtype))
        assert {t.dtype for t in model.state_dict().values() if t.is_floating_point()} == {dtype}
        assert {t.dtype for t in tracking_tensors(model).values()} <= {dtype}
        assert torch.equal(y, stock.to(dtype)(images().to(dtype)))


@policies
def test_built_on_the_meta_device(statistics):
    reference = small_network().eval()
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), BatchNormAct2d(4))
        convert_bn(model, statistics)
    model.to_empty(device="cpu")
    model.load_state_dict(reference.state_dict())
    assert all(t.item() == 0 for t in tracking_tensors(model).values())
    assert torch.equal(model.eval()(images()), reference(images()))
    assert classes(revert_bn(model)) == classes(reference)
