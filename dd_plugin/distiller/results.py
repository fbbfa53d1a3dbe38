"""The accuracies of a comparison, as a mapping that prints as its table.

Beside `report`, which makes the table. `Distiller.compare` returns them.
"""

from __future__ import annotations

from collections.abc import Mapping

from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.report import results_table
from dd_plugin.evaluation import Scores


class Results(dict[str, Scores]):
    """Scores by the images that networks were trained on; ``print`` shows them as a table.

    Args:
        scores: the first of them.
        config: of the run.
        classes: how many there are.
    """

    def __init__(self, scores: Mapping[str, Scores], config: DistillerConfig, classes: int) -> None:
        super().__init__(scores)
        self._config, self._classes = config, classes

    def __str__(self) -> str:
        return results_table(self, self._classes, self._config)

    def _repr_markdown_(self) -> str:
        """Return the table for a notebook."""
        return str(self)
