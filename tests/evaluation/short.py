"""Trainings on real images with fewer steps, for tests that do not look at how good they are."""

from dd_plugin.evaluation import ordinary


def shorten(patch, steps=40):
    """Let them take so many steps at most, until the test ends.

    Args:
        patch: pytest's `monkeypatch`.
        steps: of one training.
    """
    patch.setattr(ordinary, "MOST_STEPS", steps)
