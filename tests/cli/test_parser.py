"""`dd_plugin.cli.parser`: mistakes in one line, in the user's words, with suggestions."""

import pytest

from dd_plugin.cli import _COMMANDS, main
from dd_plugin.cli.errors import CommandError
from dd_plugin.cli.parser import Parser, as_typed, in_words


def told(words, capsys):
    """What a wrong command line is answered with: one line, and exit code 2."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.rstrip("\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["distill", "--imag_per_class", "3"],
            "dd-plugin distill: error: there is no option --imag_per_class; did you mean "
            "--images_per_class?",
        ),
        # In the spelling that the user prefers.
        (["distill", "--imag-per-class=3"], "--imag-per-class; did you mean --images-per-class?"),
        # Options that the short help leaves out.
        (["distill", "--label_from=weights"], "did you mean --label_form?"),
        (["distill", "--no-verfy"], "there is no option --no-verfy; did you mean --no-verify?"),
        (["distill", "--zzz"], "no option --zzz; `dd-plugin distill --help` lists the options"),
        # Of `transformers.TrainingArguments`.
        (
            ["distill", "--num_train_epochs", "3"],
            "there is no option --num_train_epochs; write --max_steps, the number of outer steps",
        ),
        (["distill", "--num-train-epochs=3"], "write --max-steps, the number of outer steps"),
        (["distill", "--bf16"], "no option --bf16; write --mixed_precision bf16"),
        (["distill", "--label_column_name=y"], "write --image_column and --label_column, the"),
        (["distill", "--use-cpu"], "--use-cpu; set ACCELERATE_USE_CPU=true in the environment"),
        (["evaluate", "SET", "--bf16"], "`dd-plugin evaluate --help` lists the options"),
        (["evaluate", "SET", "--networkz", "3"], "no option --networkz; did you mean --networks?"),
        (["evaluate", "SET", "--networks", "few"], "--networks must be a whole number, got 'few'"),
        (["evaluate", "SET", "--protocol", "receipt"], "got 'receipt'; did you mean 'recipe'?"),
        (["inspect", "M", "--train-with", "bach"], "--train-with must be one of batch, running"),
        (["inspect", "M", "--statistics"], "--statistics must be followed by a value"),
        (["inspect", "M", "--include"], "--include must be followed by one value or more"),
        (["inspect", "M", "--json=yes"], "--json takes no value, got 'yes'"),
        (["distill", "--max-steps", "1e"], "--max-steps must be a whole number, got '1e'"),
        (["distill", "--inner_lr", "1,5"], "--inner_lr must be a number, got '1,5'"),
        (["distill", "a.yaml", "b"], "1 argument too many: b; options begin with two dashes"),
        (["push", "folder"], "dd-plugin push: error: REPO must be given"),
        (["distil"], "dd-plugin: error: there is no command 'distil'; did you mean 'distill'?"),
        (["zzz"], f"there is no command 'zzz'; there are {', '.join(_COMMANDS)}"),
        (["--versoin"], "dd-plugin: error: there is no option --versoin; did you mean --version?"),
    ],
)
def test_a_mistake_is_told_in_the_words_of_the_user(words, message, capsys):
    line = told(words, capsys)
    assert message in line
    assert "usage" not in line
    assert "argument --" not in line


@pytest.mark.parametrize("option", ["--max_step", "--seedd", "--out", "--networ"])
@pytest.mark.parametrize("command", ["distill", "evaluate"])
def test_nothing_is_abbreviated(command, option, capsys):
    assert f"there is no option {option}" in told([command, "x", option, "5"], capsys)


def test_the_value_of_a_misspelled_option_is_not_repeated(capsys):
    token = "a-very-secret-token"
    assert token not in told(["push", "folder", "me/it", f"--tokem={token}"], capsys)
    assert token not in told(["push", "folder", "me/it", "--tokem", token], capsys)


@pytest.fixture
def typed(monkeypatch):
    def install(words, typed):
        monkeypatch.setattr(Parser, "words", words)
        monkeypatch.setattr(Parser, "typed", typed)

    return install


def test_settings_are_named_as_they_were_typed(typed):
    typed(["--image_size=3", "--seed", "1"], ["--image-size=3", "--seed", "1"])
    text = "`image_size` and `output_dir` and `seed=1` and --image_size, not --image_sizes"
    expected = "--image-size and `output_dir` and --seed 1 and --image-size, not --image_sizes"
    assert as_typed(text) == expected
    assert as_typed(text, {"output_dir"}) == expected.replace("`output_dir`", "--output_dir")
    assert as_typed("`f(x)` and `a b`", {"f", "a"}) == "`f(x)` and `a b`"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["distill"], "--output_dir holds"),
        (["distill", "recipe:x"], "--output_dir holds"),
        (["distill", "recipe:x", "--output-dir", "o"], "--output-dir holds"),
        # The line of the file is called so.
        (["distill", "x.yaml"], "`output_dir` holds"),
        (["distill", "x.yaml", "--output-dir=o"], "--output-dir holds"),
        (["evaluate", "SET"], "`output_dir` holds"),
    ],
)
def test_errors_of_a_command_name_options(monkeypatch, capsys, words, shown):
    def fail(args):
        raise CommandError("`output_dir` holds a run")

    monkeypatch.setattr(f"dd_plugin.cli.{words[0]}.run", fail)
    assert main(words) == 2
    assert capsys.readouterr().err == f"dd-plugin {words[0]}: error: {shown} a run\n"


def test_messages_that_are_not_known_stay():
    assert in_words("something else") == "something else"
    assert in_words("argument --x: odd thing") == "--x: odd thing"
    # The choices of later versions have no quotes.
    later = "argument --x: invalid choice: 'abd' (choose from abc, zz)"
    assert in_words(later) == "--x must be one of abc, zz, got 'abd'; did you mean 'abc'?"
