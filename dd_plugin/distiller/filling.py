"""The folder of a run while it lasts: filled at each evaluation, with a set that can be loaded.

Called by `distiller`; `report` writes the files and `run_folder` says where. A folder that cannot
be written costs one warning, and not the run.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

from dd_plugin.distiller.best import BestSet
from dd_plugin.distiller.course import forget_frames, keep_frame
from dd_plugin.distiller.report import Report
from dd_plugin.distiller.run_folder import RunFolder
from dd_plugin.text import first_line


class Filling:
    """Writes the files of a run while steps are done, on the main process.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._warned = False

    def begin(self, report: Report) -> None:
        """Keep a picture of the first images, and none of steps that the run has not done yet.

        Args:
            report: on the run as it is now.
        """
        run, step = report.run, report.position.global_step
        if not run.accelerator.is_main_process:
            return
        try:
            forget_frames(run.folder, step if step else -1)
            if not step and run.config.eval_steps:
                keep_frame(run.folder, step, report.parts.synthetic)
        except (OSError, ValueError) as error:
            self._warn(error)

    def fill(self, report: Report, best: BestSet) -> None:
        """Write all files; the set is that of the best evaluation if the run is to end with it.

        Args:
            report: on the run as it is now.
            best: the set of the best evaluation.
        """
        run, parts = report.run, report.parts
        if not run.accelerator.is_main_process:
            return
        try:
            if run.config.eval_steps:
                keep_frame(run.folder, report.position.global_step, parts.synthetic)
            if run.config.load_best_model_at_end and best.tensors:
                # A copy: not one tensor of the run is touched.
                chosen = copy.deepcopy(parts.synthetic)
                chosen.load_state_dict(best.tensors)
                parts = replace(parts, synthetic=chosen)
            self._folder.write_so_far(replace(report, parts=parts, running=True).write)
        except (OSError, ValueError) as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the files of the run so far could not be written ({first_line(error)}); the run "
                "goes on, and writes them when it can",
                stacklevel=4,
            )
