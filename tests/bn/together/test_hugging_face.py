"""Converted models saved, loaded and trained by transformers and accelerate."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from dd_plugin.bn import (
    UnsupportedBatchNormError,
    convert_bn,
    converted_layers,
    revert_bn,
    tracking_tensors,
)
from tests.bn.networks import images, policies, small_network, trained

CONFIG = {
    "embedding_size": 8,
    "hidden_sizes": [8, 8],
    "depths": [1, 1],
    "layer_type": "basic",
    "num_labels": 3,
}


def hub_model(cls=ResNetForImageClassification):
    torch.manual_seed(0)
    return trained(cls(ResNetConfig(**CONFIG))).eval()


class ConvertsItself(ResNetForImageClassification):
    statistics = "tracked"

    def __init__(self, config):
        super().__init__(config)
        convert_bn(self, self.statistics)


class ConvertsItselfLearned(ConvertsItself):
    statistics = "learned"


class ConvertsItselfFrozen(ConvertsItself):
    statistics = "frozen"


@policies
def test_saved_by_a_converted_model(statistics, tmp_path):
    model = convert_bn(hub_model(), statistics)
    expected = model(images()).logits
    model.save_pretrained(tmp_path)
    stock = ResNetForImageClassification.from_pretrained(tmp_path).eval()
    assert not converted_layers(stock)
    torch.testing.assert_close(stock(images()).logits, expected)
    again = convert_bn(stock, statistics)
    torch.testing.assert_close(again(images()).logits, expected)


@pytest.mark.parametrize("cls", [ConvertsItselfLearned, ConvertsItself, ConvertsItselfFrozen])
def test_loaded_by_a_model_that_converts_itself(cls, tmp_path):
    model = hub_model()
    expected = model(images()).logits
    model.save_pretrained(tmp_path)
    # Memory that is given back full of sevens, for whatever is left uninitialised.
    del [torch.full((), 7.0) for _ in range(10_000)][:]
    loaded = cls.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(images()).logits, expected)
    for scalar in tracking_tensors(loaded).values():
        assert scalar.item() == 0
    assert len(tracking_tensors(loaded)) == (18 if cls is ConvertsItself else 0)
    train_mode = loaded.train()(images()).logits
    torch.testing.assert_close(train_mode, hub_model().train()(images()).logits)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
@policies
def test_trainer(statistics, tmp_path):
    data = [{"pixel_values": x, "labels": i % 3} for i, x in enumerate(images(8))]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=0.1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    weights = []
    for model in (hub_model(), convert_bn(hub_model(), statistics)):
        trainer = Trainer(model, arguments, train_dataset=data)
        assert trainer.train().global_step == 2
        weights.append(dict(model.named_parameters()))
    for name, weight in weights[0].items():  # train mode is the stock model's
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-5)
    trainer.save_model(tmp_path)
    stock = ResNetForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(stock(images()).logits, model.eval()(images()).logits)


@policies
def test_accelerate_prepare(statistics):
    model = convert_bn(small_network(), statistics)
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    before = model[0].weight.clone()
    accelerator.backward(prepared(images(4)).square().mean())
    optimizer.step()
    assert not torch.equal(model[0].weight, before)
    revert_bn(accelerator.unwrap_model(prepared))
    assert not converted_layers(model)


def test_accelerate_hooks_on_a_layer():
    model = small_network()
    add_hook_to_module(model[1], ModelHook())
    with pytest.raises(UnsupportedBatchNormError, match=r"cannot convert '1'.*accelerate's hooks"):
        convert_bn(model)
    assert not converted_layers(model)
    remove_hook_from_module(model[1])
    convert_bn(model)
    expected = model.eval()(images())
    add_hook_to_module(model[1], ModelHook())
    with pytest.raises(UnsupportedBatchNormError, match=r"cannot revert '1'.*accelerate's hooks"):
        revert_bn(model)
    torch.testing.assert_close(model(images()), expected)
    remove_hook_from_module(model[1])
    torch.testing.assert_close(revert_bn(model)(images()), expected)
