"""The examples run as they are, and what they say holds."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_forum_forward_backward(capsys):
    path = EXAMPLES / "forum_forward_backward.py"
    assert len(path.read_text().splitlines()) < 40
    names = runpy.run_path(str(path))
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    # Three outer losses, each well below the one before, from ln 2 = 0.69 of guessing.
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.4
    for name, start in names["problem"].model.constants.items():
        assert not start.equal(names["statistics"][name].detach())
    assert all(p.grad is None for p in names["model"].parameters())
