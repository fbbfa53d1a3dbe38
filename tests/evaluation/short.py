"""Trainings on real images with fewer steps, for tests that do not look at how good they are."""

from dd_plugin.evaluation import baselines


def shorten(patch, few=40, many=0):
    """Let them take fewer steps, until the test ends.

    Args:
        patch: pytest's `monkeypatch`.
        few: steps on a handful of images, and the least on all of them.
        many: images of a training on all of them, with repetition.
    """
    patch.setattr(baselines, "FEW_STEPS", few)
    patch.setattr(baselines, "MANY_IMAGES", many)
    patch.setitem(baselines.train_on_few.__kwdefaults__, "steps", few)
