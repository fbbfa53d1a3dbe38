"""Nothing that somebody else wrote is run: by no call of transformers, and on no key press."""

import ast
import builtins
import contextlib
import json
from pathlib import Path

import pytest
from torch import nn
from transformers import ResNetConfig

import dd_plugin
from dd_plugin import DistilledDataset
from dd_plugin.models import ModelLoadError, load_model
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


def test_a_model_that_needs_code_comes_as_an_object(tmp_path):
    folder = write_toy(tmp_path)
    change_record(folder, lambda record: record["recipe"].update(model="a/b", model_args={}))
    distilled = DistilledDataset.from_pretrained(folder)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert isinstance(distilled.fit(network), nn.Module)
    assert isinstance(distilled.fit(lambda: network), nn.Module)
