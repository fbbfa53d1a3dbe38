"""`dd-plugin env`: what a bug report needs, and nothing that is nobody's business."""

import getpass
import socket
from importlib.metadata import version
from pathlib import Path

import pytest

import dd_plugin
from dd_plugin.cli import main
from dd_plugin.cli.env import compiler, processor_name


def facts(text):
    return dict(line.removeprefix("- ").split(": ", 1) for line in text.splitlines())


def test_versions_and_hardware(capsys):
    assert main(["env"]) == 0
    shown = facts(capsys.readouterr().out)
    assert shown["dd_plugin"] == dd_plugin.__version__
    for package in ("torch", "timm", "transformers", "accelerate", "datasets"):
        assert shown[package] == version(package)
    assert {"python", "system", "processor", "compiler", "cores", "memory"} <= set(shown)
    assert any(name.startswith("GPU") for name in shown)
    assert "GiB" in shown["memory"]


def test_no_names_paths_or_tokens(capsys, monkeypatch, tmp_path):
    secret = "hf_" + "x" * 30
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    assert secret not in text
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text or Path.home() == Path("/")
    assert socket.gethostname() not in text
    if len(getpass.getuser()) > 4:  # "root" is a word of other names
        assert getpass.getuser() not in text
    assert facts(text)["compiler"] == "no-such-compiler, which is not installed"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'ours++ (build /home/me 1.2-3) 14.2.0'", "mine 14.2.0"),
        ("echo '/home/me/bin/ours'", "mine of an unknown version"),
        ("exit 3", "mine, which does not tell its version"),
    ],
)
def test_a_compiler_is_named_without_its_path(monkeypatch, tmp_path, script, told):
    program = tmp_path / "mine"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("CXX", f"{program} -O2")
    assert compiler() == told


def test_what_is_missing_is_said(capsys, monkeypatch):
    monkeypatch.setattr("dd_plugin.cli.env._PACKAGES", ("no-such-package",))
    assert main(["env"]) == 0
    assert facts(capsys.readouterr().out)["no-such-package"] == "not installed"


def test_processor_is_the_one_that_the_system_names(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: other\n")
    assert processor_name(file) == "Some CPU @ 3 GHz"
    assert processor_name(tmp_path / "none")
