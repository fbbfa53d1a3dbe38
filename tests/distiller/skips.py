"""Steps that do not count, for the runs of some tests."""

from dd_plugin.distiller import DistillerCallback


class Skips(DistillerCallback):
    """Has the steps after some others fail, by real images that are no numbers."""

    def __init__(self, steps):
        self.steps = set(steps)

    def on_train_begin(self, config, state, control, *, distiller, **kwargs):
        real_batch = distiller.real_batch

        def broken(step, index):
            images, labels = real_batch(step, index)
            return (images * float("nan") if step in self.steps else images), labels

        distiller.real_batch = broken
