"""The token of the Hub is in nothing that a run prints, logs or writes."""

import dataclasses
import logging
import pickle
import subprocess
import sys
import traceback
import warnings

import pytest

from dd_plugin.cli import main
from dd_plugin.distiller import DistillerConfig, NoEffectWarning
from tests.distiller.toy import toy_config, toy_distiller
from tests.repository import ROOT

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
SHORT = "my-own-secret"


def everything_about(error):
    """What any handler could print of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("token", [TOKEN, SHORT])
def test_the_configuration_does_not_show_it(token, tmp_path):
    options = {"push_to_hub": True, "hub_dataset_id": "me/it", "hub_token": token}
    config = toy_config(tmp_path, **options)
    assert config.hub_token == token
    for text in (repr(config), str(config), f"{config}", repr([config]), str(config.to_dict())):
        assert token not in text
    assert token not in repr(dataclasses.replace(config, seed=3))
    # It still arrives where a configuration is copied to.
    assert pickle.loads(pickle.dumps(config)).hub_token == token
    assert dataclasses.replace(config, seed=3).hub_token == token


def test_the_warning_names_the_option_and_not_the_value(recwarn):
    DistillerConfig(hub_token=TOKEN, groups=3)
    texts = [str(w.message) for w in recwarn if w.category is NoEffectWarning]
    assert len(texts) == 2
    assert any("`hub_token` has no effect" in text for text in texts)
    assert any("`groups` = 3 has no effect" in text for text in texts)
    assert not any(TOKEN in text for text in texts)


@pytest.mark.parametrize(
    "value", [TOKEN.encode(), [TOKEN], {TOKEN: 1}, TOKEN + "\n", f" {TOKEN}", f"{TOKEN} x", "hfü"]
)
def test_wrong_values_are_not_quoted(value):
    with pytest.raises(ValueError, match="`hub_token` must be") as caught:
        DistillerConfig(hub_token=value, push_to_hub=True, hub_dataset_id="me/it")
    assert TOKEN not in everything_about(caught.value)
    assert "hfü" not in everything_about(caught.value)


def test_no_output_of_a_run_has_it(tmp_path, capfd, caplog, monkeypatch):
    tensorboard = pytest.importorskip("tensorboard")
    assert tensorboard
    asked = []

    def check(*args, **kwargs):
        asked.append(kwargs["token"])

    def push(folder, repo_id, *, token, on_progress, **kwargs):
        asked.append(token)
        on_progress(f"asking whether {repo_id} can be written to")
        return type("Done", (), {"commit_url": "address"})

    monkeypatch.setattr("dd_plugin.hub.check_target", check)
    monkeypatch.setattr("dd_plugin.hub.push_folder", push)
    caplog.set_level(logging.DEBUG, "dd_plugin")
    options = {"push_to_hub": True, "hub_dataset_id": "me/it", "hub_token": TOKEN}
    options |= {"report_to": ["tensorboard"], "save_steps": 2, "eval_steps": 2}
    distiller = toy_distiller(tmp_path / "out", **options)
    distiller.train()
    distiller.compare()
    distiller.push_to_hub()
    distiller.end()
    assert asked == [TOKEN, TOKEN]  # it was at work
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"recipe.json", "README.md", "state.json", "log.jsonl"} <= names
    assert any("tfevents" in name for name in names)
    for path in files:
        assert TOKEN.encode() not in path.read_bytes(), path
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err + caplog.text


YAML = {
    "no effect": "hub_token: {}\n",
    "an unknown option": "hub_tokne: {}\n",
    "two values": "hub_token: {}: x\n",
    "an open quote": 'hub_token: "{}\n',
    "an alias": "hub_token: *{}\n",
    "a list": "hub_token: [{}]\n",
    "an option of another kind": "hub_token: {}\nmax_steps: many\n",
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_a_file_of_settings_is_not_quoted(tmp_path, text, capsys):
    (tmp_path / "run.yaml").write_text(text.format(TOKEN))
    words = ["distill", str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "out")]
    # The data is what ends a run whose settings are taken.
    assert main([*words, "--dataset", str(tmp_path / "none")]) == 2
    printed = capsys.readouterr()
    assert "error: " in printed.err
    assert TOKEN not in printed.out + printed.err


LINES = [
    ["distill", "--hub_token", TOKEN, "--max_steps", "0"],
    ["distill", f"--hub_token={TOKEN}", "--max_steps", "0"],
    ["distill", "--hub_token", SHORT, "--max_steps", "0"],
    ["distill", "--hub_tokn", TOKEN],
    ["distill", "--hub_tokn", SHORT],
    ["distill", f"--hub-tokn={SHORT}"],
    ["distill", f"--hub={TOKEN}"],
    ["distill", "--max_steps", TOKEN],
    ["distill", "--hub_token", SHORT, SHORT, SHORT],
    ["evaluate", "/none", "--token", SHORT, "--networks", "0"],
    ["evaluate", "--token", SHORT],
    ["evaluate", "/none", "--tokens", SHORT],
    ["push", "/none", "me/it", "--token", SHORT],
    ["push", "/none", "me/it", "--tokken", SHORT],
    ["export", "/none", "/none", "--token", SHORT],
    [TOKEN],
]


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_wrong_line_is_not_quoted(words, capsys):
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code
    printed = capsys.readouterr()
    assert code == 2
    assert "error: " in printed.err
    assert not any(token in printed.out + printed.err for token in (TOKEN, SHORT))


def test_a_process_of_its_own_says_nothing_either(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from dd_plugin.distiller import DistillerConfig as C; import sys;"
            "print(C(hub_token=sys.argv[1])); C(hub_token=sys.argv[1].encode())",
            TOKEN,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "DistillerConfig(" in done.stdout
    assert "has no effect" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_the_warnings_module_is_what_the_command_prints(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        words = ["--hub_token", TOKEN, "--dataset", str(tmp_path / "none")]
        assert main(["distill", "--output_dir", str(tmp_path / "out"), *words]) == 2
    printed = capsys.readouterr().err
    assert "warning: `hub_token` has no effect" in printed
    assert TOKEN not in printed
