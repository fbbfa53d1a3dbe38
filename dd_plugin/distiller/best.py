"""The best distilled set of a run, by the accuracy of its evaluations.

Kept by `distiller` with `load_best_model_at_end`, saved and restored by `checkpoint`.
"""

from __future__ import annotations

from torch import Tensor

from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller.callbacks import DistillerState


class BestSet:
    """The synthetic set as it was at its best evaluation.

    Attributes:
        tensors: its state then; empty before the first evaluation.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}

    def note(self, synthetic: SyntheticSet, state: DistillerState, accuracy: float) -> None:
        """Keep the set as it is if no evaluation before was as good."""
        if state.best_metric is None or accuracy > state.best_metric:
            state.best_metric, state.best_step = accuracy, state.global_step
            self.tensors = _copied(synthetic)

    def restore(self, synthetic: SyntheticSet) -> None:
        """Put the best set back; without an evaluation the set stays as it is."""
        if self.tensors:
            self._last = _copied(synthetic)
            synthetic.load_state_dict(self.tensors)

    def go_on(self, synthetic: SyntheticSet) -> None:
        """Undo `restore`, for more steps."""
        if self._last:
            synthetic.load_state_dict(self._last)
            self._last = {}


def _copied(synthetic: SyntheticSet) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in synthetic.state_dict().items()}
