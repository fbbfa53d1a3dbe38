"""The first line of an error."""

import pytest

from dd_plugin.messages import first_line, without_secrets


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
    ],
)
def test_first_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("for https://a.example/x?X-Sig=1&b=2: no", "for https://a.example/x no"),
        ("(https://a.example/x?sig=1)", "(https://a.example/x)"),
        ("'https://a.example/x#sig=1'", "'https://a.example/x'"),
        ("https://me:word@a.example/x", "https://a.example/x"),
        ("token hf_abcdefghijklmn is", "token hf_... is"),
        ("what? nothing", "what? nothing"),
    ],
)
def test_messages_open_no_doors(text, left):
    assert without_secrets(text) == left
    assert first_line(ValueError(text)) == left
