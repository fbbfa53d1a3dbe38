"""The features of a run's real images, by each of its frozen backbones.

Used by `head_course`. They are computed once per data set, backbone and augmentation, and kept in a
folder that several runs can share; the processes of a run share out the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather
from tqdm.auto import tqdm

from dd_plugin.data import RealData
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.networks import Backbone, Features, features_of


@dataclass(frozen=True)
class RealFeatures:
    """Real images whose features are computed on demand.

    Attributes:
        config: of the run.
        train: the images that are distilled, whose features have `feature_copies` copies.
        evaluation: the images that heads are tested on, or None.
    """

    config: DistillerConfig
    train: RealData
    evaluation: RealData | None

    def of_train(self, backbone: Backbone) -> Features:
        """Return the features of the images that are distilled."""
        return self._compute(backbone, self.train, self.config.feature_copies)

    def of_evaluation(self, backbone: Backbone) -> Features:
        """Return the features of the images that heads are tested on."""
        assert self.evaluation is not None
        return self._compute(backbone, self.evaluation, 1)

    def _compute(self, backbone: Backbone, images: RealData, copies: int) -> Features:
        config, state = self.config, PartialState()
        name = backbone.name or type(backbone).__name__
        with tqdm(
            total=None,
            desc=f"features of {name}",
            unit="image",
            disable=config.disable_tqdm or not state.is_main_process,
            leave=False,
        ) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return features_of(
                backbone,
                images,
                copies=copies,
                augmentation=config.augmentation if copies > 1 else "",
                seed=config.seed,
                batch_size=config.backbone_batch_size,
                folder=Path(config.feature_dir or config.output_dir),
                on_progress=show,
                share=(state.process_index, state.num_processes),
                gather=gather if state.num_processes > 1 else None,
            )
