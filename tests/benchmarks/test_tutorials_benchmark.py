"""The benchmark of tutorials: what it runs of a page, and what not."""

import subprocess
import weakref

import pytest

from tests.benchmarks import tutorials
from tests.docs.pages import ROOT


def test_every_tutorial_has_its_turn():
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/tutorials").glob("*.md")}
    # Publishing needs a login.
    assert there - set(tutorials.PAGES) == {"docs/tutorials/publish.md"}


@pytest.mark.parametrize("page", tutorials.PAGES)
def test_something_of_every_page_is_run(page):
    blocks = tutorials.blocks_of(page)
    commands = [tutorials.commands_of(code) for language, code in blocks if language == "sh"]
    run_here = [line for lines in commands for line in lines if not tutorials.is_elsewhere(line)]
    assert run_here or any(language == "python" for language, _ in blocks)


_PAGE = """\
```python
value = 3
```

1. In a list:

    ```python
    doubled = 2 * value
    ```

```yaml
steps: 3
```

```sh
# a remark
cat \\
  settings.yaml > copy
dd-plugin push mine me/digits
```

```python
assert doubled == 6
```
"""


def test_blocks_of_a_page_share_names_and_a_folder(tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text(_PAGE)
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    row = tutorials.run_page(tmp_path / "page.md", folder)
    assert (folder / "copy").read_text() == "steps: 3\n"
    assert row["ran"] == 4
    assert row["left_out"] == ["dd-plugin push mine me/digits"]


def test_a_run_of_a_page_is_gone_before_a_command(monkeypatch):
    class Run:
        def __init__(self):
            self.itself = self

    monkeypatch.setattr(tutorials, "Distiller", Run)
    names = {"number": 3, "run": Run()}
    of_run = weakref.ref(names["run"])
    tutorials._let_go(names)
    assert names == {"number": 3}
    assert of_run() is None


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("```sh\nfalse\n```\n", subprocess.CalledProcessError),
        ("```python\n1 / 0\n```\n", ZeroDivisionError),
    ],
)
def test_a_block_that_fails_is_an_error(code, error, tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        tutorials.run_page(tmp_path / "page.md", tmp_path)
