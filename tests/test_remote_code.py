"""Nothing that somebody else wrote is run: by no call of transformers, and on no key press."""

import ast
import builtins
import contextlib
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import ResNetConfig

import dd_plugin
from dd_plugin import DistilledDataset
from dd_plugin.models import ModelLoadError, load_model
from dd_plugin.networks.fresh import fresh_network
from dd_plugin.networks.names import factory_from
from tests.hub.toy import change_record, write_toy

PACKAGE = Path(dd_plugin.__file__).parent
# Whose `from_pretrained` is our own, which runs nothing.
OWN = {"DistilledDataset"}
LOADERS = ("from_pretrained", "from_config")


def calls_in(source: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def unsafe(call: ast.Call) -> bool:
    """Whether a call may run code of a repository."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    receiver = function.value if isinstance(function, ast.Attribute) else None
    if isinstance(receiver, ast.Name) and receiver.id in OWN:
        return False
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in LOADERS or (name == "pipeline" and receiver is None):
        said = given.get("trust_remote_code")
        return not (isinstance(said, ast.Constant) and said.value is False)
    if isinstance(receiver, ast.Name) and receiver.id == "torch" and name == "load":
        said = given.get("weights_only")
        return not (isinstance(said, ast.Constant) and said.value is True)
    return False


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_every_loader_is_told_to_run_nothing(path):
    source = path.read_text("utf-8")
    assert not [call.lineno for call in calls_in(source) if unsafe(call)]
    # No loader that the test would not see: one that is handed on instead of called.
    named = [
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in LOADERS
    ]
    called = [
        call.func.attr
        for call in calls_in(source)
        if isinstance(call.func, ast.Attribute) and call.func.attr in LOADERS
    ]
    assert sorted(named) == sorted(called)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("AutoConfig.from_pretrained(name)", True),
        ("auto.from_pretrained(name, **options)", True),
        ("transformers.AutoModel.from_config(config, trust_remote_code=trust)", True),
        ("AutoImageProcessor.from_pretrained(name, trust_remote_code=True)", True),
        ("torch.load(path)", True),
        ("AutoConfig.from_pretrained(name, trust_remote_code=False)", False),
        ("DistilledDataset.from_pretrained(name)", False),
    ],
)
def test_the_test_sees_them(line, found):
    assert any(unsafe(call) for call in calls_in(line)) == found


def with_code(folder, part):
    """A model whose repository has code that leaves a mark."""
    folder.mkdir()
    mark = folder / "executed"
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    config = {"model_type": "resnet"} if part != "AutoConfig" else {"model_type": "its_own"}
    if part == "AutoModel":
        config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]).to_dict()
        config["model_type"] = "resnet"
    config["auto_map"] = {part: "own.Thing"}
    (folder / "config.json").write_text(json.dumps(config))
    return mark


@pytest.mark.parametrize("part", ["AutoConfig", "AutoModel", "AutoModelForImageClassification"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_code_of_a_repository_is_not_run_on_a_key_press(tmp_path, monkeypatch, part, pretrained):
    asked = []
    monkeypatch.setattr(builtins, "input", lambda *args: asked.append(args) or "y")
    mark = with_code(tmp_path / "model", part)
    message = "needs code from its own repository, .* pass it as an object"
    if part == "AutoConfig":
        with pytest.raises(ModelLoadError, match=message):
            load_model(str(tmp_path / "model"), pretrained=pretrained)
    else:  # transformers has code of its own for it
        with contextlib.suppress(ModelLoadError):  # there are no weights
            load_model(str(tmp_path / "model"), pretrained=pretrained)
    assert not asked
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../model",
        "./model",
        "~/model",
        "model/../../model",
        "a/b/c",
        "C:\\model",
        "",
        "file:///etc/passwd",
        "x" * 5000,
        "a\0b",
    ],
    ids=repr,
)
def test_a_name_out_of_a_record_is_no_path(tmp_path, monkeypatch, name):
    folder = write_toy(tmp_path / "set")
    ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]).save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "set")
    change_record(folder, lambda record: record["recipe"].update(model=name, model_args={}))
    distilled = DistilledDataset.from_pretrained(folder)
    for model in (None, name):
        with pytest.raises(ModelLoadError, match="neither timm/NAME nor an id") as caught:
            distilled.fit(model)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["model", "someone/model"])
def test_a_name_of_the_hub_is_not_looked_up_here(tmp_path, monkeypatch, name):
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=2
    )
    config.save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    folder = write_toy(tmp_path / "set")
    change_record(folder, lambda record: record["recipe"].update(model=name, model_args={}))
    distilled = DistilledDataset.from_pretrained(folder)
    with pytest.raises(ModelLoadError, match="there is a file or folder of that name here"):
        distilled.fit()
    # What a user types may be a path, the same one too.
    assert isinstance(distilled.fit(str(tmp_path / name)), nn.Module)  # as on real images


def test_a_model_that_needs_code_comes_as_an_object(tmp_path):
    folder = write_toy(tmp_path)
    change_record(folder, lambda record: record["recipe"].update(model="a/b", model_args={}))
    distilled = DistilledDataset.from_pretrained(folder)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert isinstance(distilled.fit(network), nn.Module)
    assert isinstance(distilled.fit(lambda: network), nn.Module)


@pytest.mark.parametrize("kind", ["file", "long", "zero", "pipe"])
def test_what_is_no_name_at_all(tmp_path, kind):
    if kind == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes in the file system")
    path = tmp_path / "model"
    if kind == "file":
        path.write_text("{}")
    if kind == "pipe":
        os.mkfifo(path)
    name = {"long": "x" * 70_000, "zero": "a\0b"}.get(kind, str(path))
    expected = {"file": "is a file", "pipe": "is a file", "long": "at most 200 characters"}
    with pytest.raises(ModelLoadError, match=expected.get(kind, "no model")) as caught:
        load_model(name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["timm/" + "x" * 100_000, "timm/" + "resnet18." * 30_000])
def test_a_long_name_of_timm(name):
    with pytest.raises(ModelLoadError, match="timm has no architecture") as caught:
        load_model(name)
    assert len(str(caught.value)) < 400


ODD = [
    {"name": 1},
    {"torch_dtype": "no such"},
    {"torch_dtype": [1]},
    {"hidden_act": "no such"},
    {"hidden_act": 3},
    {"hidden_sizes": "ab"},
    {"depths": [0.5]},
    {"depths": None, "layer_type": 3},
    {"num_channels": "x"},
    {"num_labels": -3},
    {"num_labels": "x"},
    {"num_classes": [1]},
    {"img_size": "x"},
    {"img_size": [1, 2, 3]},
    {"to_dict": 1},
    {"model_type": []},
    {"id2label": 3},
    {"self": 1},
    {"from_record": False},
    {"max_parameters": 1},
    {"make": 1},
]


@pytest.mark.parametrize("model_args", ODD, ids=repr)
@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_odd_arguments_make_a_network_or_our_error(tmp_path, model_args, library):
    name = "timm/dd_convnet"
    if library == "transformers":
        name = str(tmp_path)
        ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]).save_pretrained(tmp_path)
    for options in ({}, {"max_parameters": 10**7}):
        try:
            network = factory_from(name, model_args, **options)()
        except ModelLoadError:
            continue
        assert isinstance(network, nn.Module)


BIG = [
    ("timm/vit_7b_patch16_dinov3", {}),
    ("timm/dd_convnet", {"width": 200_000}),
    ("timm/dd_convnet", {"depth": 1_000_000}),
    ("timm/vit_tiny_patch16_224", {"embed_dim": 300_000}),
    ("timm/vit_tiny_patch16_224", {"depth": 900_000}),
    ("timm/resnet18", {"num_classes": 1 << 20}),
]


@pytest.mark.parametrize(("name", "model_args"), BIG, ids=str)
def test_a_set_cannot_ask_for_a_huge_network(name, model_args):
    state = torch.random.get_rng_state()
    with pytest.raises(ModelLoadError, match=r"`max_parameters`|more than 20,000 l|could not"):
        fresh_network(
            name, 0, 2, (3, 32, 32), model_args, from_record=True, max_parameters=100_000_000
        )
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("value", [10**9, 1e300, -(10**12), float("inf"), float("nan")])
def test_a_set_cannot_ask_for_huge_arguments(value):
    for given in (value, [1, value]):
        with pytest.raises(ModelLoadError, match="'num_classes' must be at most"):
            factory_from("timm/dd_convnet", {"num_classes": given}, from_record=True)


def test_looking_at_the_size_changes_no_weight():
    first, second = (
        fresh_network("timm/test_resnet", 0, 2, (3, 32, 32), max_parameters=most)
        for most in (None, 10**8)
    )
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_network_that_cannot_be_made_without_memory_is_counted_all_the_same(monkeypatch):
    def measured(*args, **options):
        float(torch.ones(()).sum())  # as old code does, which fails without memory
        return nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))

    monkeypatch.setattr("timm.create_model", measured)
    assert factory_from("timm/resnet18", {}, max_parameters=220)() is not None
    with pytest.raises(ModelLoadError, match="more than 219 parameters"):
        factory_from("timm/resnet18", {}, max_parameters=219)()
