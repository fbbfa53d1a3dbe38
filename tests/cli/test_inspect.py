"""`dd-plugin inspect`: what it counts, what it prints, and which mistakes it tells in one line."""

import json

import pytest
from transformers import ResNetConfig, ViTConfig

from dd_plugin.cli import main
from dd_plugin.cli.inspect import stage_of


@pytest.fixture
def resnet_folder(tmp_path):
    """A saved configuration of a ResNet with two stages of one basic block each."""
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    config.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture
def vit_folder(tmp_path):
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=1, intermediate_size=8
    )
    config.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture
def inspect_json(capsys):
    def run(*words: str):
        assert main(["inspect", *words, "--json"]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return json.loads(captured.out)

    return run


def test_counts_by_class_and_stage_of_a_timm_model(inspect_json):
    report = inspect_json("timm/resnet18")
    # resnet18: one BatchNorm in the stem; four stages of two basic blocks with two each; stages 2
    # to 4 have one more in the shortcut of their first block. 1 + 4*2*2 + 3 = 20.
    assert report["model"] == "timm/resnet18"
    assert report["class"] == "ResNet"
    assert report["convert"] == {
        "layers": 20,
        "by_class": {"BatchNorm2d": 20},
        "by_stage": {"bn1": 1, "layer1": 4, "layer2": 5, "layer3": 5, "layer4": 5},
    }
    assert report["left_by_pattern"] == []
    assert report["other_normalisations"] == {}
    assert report["second_order"] == []


def test_local_folder(inspect_json, resnet_folder):
    report = inspect_json(resnet_folder)
    # One in the embedder. Stage 0 keeps width and, with the default configuration, resolution: two.
    # Stage 1 doubles the width, so its shortcut has one more: three.
    assert report["class"] == "ResNetForImageClassification"
    assert report["convert"]["by_class"] == {"BatchNorm2d": 6}
    assert report["convert"]["by_stage"] == {
        "resnet.embedder.embedder": 1,
        "resnet.encoder.stages.0": 2,
        "resnet.encoder.stages.1": 3,
    }


def test_policy_is_passed_on(inspect_json, resnet_folder):
    words = ["--statistics", "tracked", "--train-with", "running"]
    assert inspect_json(resnet_folder, *words)["policy"] == {
        "statistics": "tracked",
        "train_with": "running",
        "include": None,
        "exclude": None,
    }


def test_include_and_exclude_select_by_name(inspect_json, resnet_folder):
    report = inspect_json(resnet_folder, "--include", "resnet.encoder", "--exclude", "*.stages.1.*")
    assert report["convert"]["by_stage"] == {"resnet.encoder.stages.0": 2}
    assert len(report["left_by_pattern"]) == 4
    assert "resnet.embedder.embedder.normalization" in report["left_by_pattern"]


def test_model_without_batchnorm_is_an_answer(inspect_json, vit_folder):
    report = inspect_json(vit_folder)
    assert report["convert"] == {"layers": 0, "by_class": {}, "by_stage": {}}
    # Two per block and one at the end.
    assert report["other_normalisations"] == {"LayerNorm": 5}


def test_needs_under_second_order_are_listed(inspect_json):
    """The gates of squeeze-and-excite here are hard sigmoids: torch has their first derivative."""
    needs = inspect_json("timm/mobilenetv3_small_050")["second_order"]
    gates = next(need for need in needs if need["what"] == "hardsigmoid")
    assert gates["kind"] == "operation"
    assert gates["where"] == "blocks.0.0.se.gate"
    # One squeeze-and-excite per block but the two of stage 1: eleven blocks, nine gates.
    assert gates["count"] == 9


def test_table_says_what_is_done_about_a_need(capsys):
    assert main(["inspect", "timm/mobilenetv3_small_050"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["operation", "hardsigmoid", "9", "blocks.0.0.se.gate"] in [x.split() for x in lines]
    assert "  operation: lacks a rule for second derivatives" in "\n".join(lines)
    assert "unsupported" not in "\n".join(lines)


def test_table_shows_what_the_json_says(capsys, resnet_folder):
    words = [resnet_folder, "--statistics", "tracked", "--exclude", "*.stages.1.*"]
    assert main(["inspect", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = [line.split() for line in captured.out.splitlines()]
    assert ["BatchNorm2d", "3"] in lines
    assert ["resnet.embedder.embedder", "1"] in lines
    assert ["resnet.encoder.stages.0", "2"] in lines
    assert "statistics='tracked', train_with='batch', exclude=['*.stages.1.*']" in captured.out
    assert "convert_bn would convert 3 layers" in captured.out
    assert "left as they are by pattern: resnet.encoder.stages.1" in captured.out


def test_table_of_a_model_without_batchnorm(capsys, vit_folder):
    assert main(["inspect", vit_folder]) == 0
    shown = capsys.readouterr().out
    assert "convert_bn would convert nothing" in shown
    assert ["LayerNorm", "5"] in [line.split() for line in shown.splitlines()]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["timm/resnet19"], "timm has no architecture 'resnet19'; close: timm/resnet18"),
        (["timm/resnet18", "--include", "layer1", "layer9"], "the pattern 'layer9' matches none"),
        (["nobody/nothing"], "no model 'nobody/nothing'"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(capsys, words, told):
    assert main(["inspect", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dd-plugin inspect: error: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("names", "stages"),
    [
        # Up to the first component that ends in a digit; a layer of the root is its own stage.
        (["bn1", "layer1.0.bn1", "layer1.1.bn2"], ["bn1", "layer1", "layer1"]),
        (["bn1", "blocks.0.0.bn1", "blocks.10.0.bn1"], ["bn1", "blocks.0", "blocks.10"]),
        # No digit: the layer's parent.
        (["stem.norm", "head.norm"], ["stem", "head"]),
        # What all names share does not decide, though it ends in a digit.
        (["net_v2.layer.0.norm", "net_v2.layer.1.norm"], ["net_v2.layer.0", "net_v2.layer.1"]),
        # One layer has nothing to be compared with.
        (["features.0.1"], ["features.0"]),
        # The root itself is the layer.
        ([""], [""]),
        ([], []),
    ],
)
def test_stage_of(names, stages):
    assert stage_of(names) == dict(zip(names, stages, strict=True))
