"""`Distiller`: the trainer, from data and a network to a distilled set.

The middle of the package, and the only file of the trainer that knows the others: `parts` makes
what a run works on, `outer_step` moves the synthetic set, `evaluating` tests it, `checkpoint` saves
and restores a run, and `report` tells how it went. Here are the loop and what users call. Whatever
is random is a function of the seed, the outer step and the index of the network, so a resumed run
and one on other processes take the same steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dd_plugin.bilevel import cross_entropy as default_loss
from dd_plugin.bilevel.problem import Loss
from dd_plugin.distiller.agreement import check_construction, check_course
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.auto_compile import AutoCompile
from dd_plugin.distiller.best import BestSet
from dd_plugin.distiller.callbacks import (
    DistillerCallback,
    DistillerControl,
    DistillerState,
    callbacks_of_run,
)
from dd_plugin.distiller.checkpoint import save_or_warn
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.evaluating import Evaluator, metrics_of
from dd_plugin.distiller.filling import Filling
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.losses import Losses
from dd_plugin.distiller.model_names import names_as_settings, warn_of_nameless
from dd_plugin.distiller.network_checks import check_losses
from dd_plugin.distiller.outer_optimizer import make_outer_optimizer
from dd_plugin.distiller.outer_step import OuterStep
from dd_plugin.distiller.output_folder import check_places
from dd_plugin.distiller.parts import Parts, make_parts, make_window
from dd_plugin.distiller.progress import Progress, Workload
from dd_plugin.distiller.publishing import check_publishing, publish
from dd_plugin.distiller.real_images import real_batch_size
from dd_plugin.distiller.report import Report
from dd_plugin.distiller.resuming import begin_or_resume, take_max_steps
from dd_plugin.distiller.run import Run, TrainState
from dd_plugin.distiller.run_folder import RunFolder
from dd_plugin.distiller.setting_checks import check_selection_data
from dd_plugin.distiller.skipped_steps import check_skipped
from dd_plugin.distiller.stopping import StopSignal, unwinding_on_sigterm
from dd_plugin.distiller.storage_choice import storage_of
from dd_plugin.distiller.trackers import Trackers, make_accelerator
from dd_plugin.distiller.unknown_names import answering_trainer
from dd_plugin.evaluation import Scores
from dd_plugin.evaluation.preparation import training_input
from dd_plugin.networks.fresh import ModelInit
from dd_plugin.seeds import Purpose, mix


@answering_trainer
class Distiller:
    """Distills a data set into a few synthetic images.

    Args:
        model_init: a function that makes a network, a network (a fixed initialization), or a
            name; by default ``config.model``. A list of these for a set that serves several
            networks, which take turns in the outer steps.
        config: the settings.
        train_dataset: what is distilled: anything that `dd_plugin.data.load_real` takes; by
            default ``config.dataset``.
        eval_dataset: images on which distilled sets are evaluated, never trained on.
        inner_loss: ``(logits, labels) -> scalar`` of inner training; learned labels are
            probabilities, or weights of any sign with ``label_form="weights"``.
        outer_loss: the same, of the trained network on real images.
        callbacks: more of them.
        accelerator: one of your own making.

    Raises:
        DataError: the data cannot be used.
        ValueError: something does not fit together, or the output folder holds another run.
        ProcessesDifferError: the processes of the run have different data, settings or networks.
        OSError: the output folder cannot be written.
        TypeError: there is no argument of a name; it says what to write instead.
        PushError: ``push_to_hub``, and the Hub would not take it.

    Attributes:
        config: the settings, with those that the data decided; the object that was passed stays as
            it is.
        synthetic: the distilled set as it is now.
        state: where the run is.
        accelerator: what the run computes with.
    """

    def __init__(
        self,
        model_init: ModelInit | Sequence[ModelInit] | None = None,
        config: DistillerConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *,
        inner_loss: Loss | None = None,
        outer_loss: Loss | None = None,
        callbacks: Sequence[DistillerCallback] = (),
        accelerator: Accelerator | None = None,
    ) -> None:
        config, model_init = names_as_settings(config, model_init)
        self.config, self.output_dir = config, Path(config.output_dir)
        self._inner_loss, self._outer_loss = inner_loss, outer_loss
        self.accelerator = accelerator or make_accelerator(config)
        self.networks_per_step = Run.of(config, self.accelerator).networks_per_step
        self.callbacks = callbacks_of_run(callbacks)
        is_main = self.accelerator.is_main_process
        check_places(config, train_dataset, eval_dataset, is_main=is_main)
        if config.push_to_hub and is_main:
            check_publishing(config)
        self.dtype = self._run.dtype
        parts, config = make_parts(
            config,
            model_init,
            train_dataset,
            eval_dataset,
            losses=self._losses,
            device=self.accelerator.device,
            dtype=self.dtype,
        )
        self.config = config
        self.train_data, self.eval_data = parts.train, parts.evaluation
        self.train_split, self.eval_split = parts.train_split, parts.eval_split
        self.transform, self.networks = parts.transform, parts.networks
        self.synthetic = parts.synthetic
        self.head = self.networks if isinstance(self.networks, HeadCourse) else None
        if (world := self.accelerator.num_processes) > 1:
            self.train_data.share(self.accelerator.process_index, world)
        if config.load_best_model_at_end:
            check_selection_data(self.eval_data is not None, self.eval_split)
        if model_init is None and is_main:
            warn_of_nameless(self.synthetic.recipe)
        check_construction(self._run, self._parts)
        self.window = make_window(config)
        self.optimizer, self.lr_scheduler = self.create_optimizer_and_scheduler()
        self._scheduled_steps = config.max_steps
        self.state, self.control = DistillerState(max_steps=config.max_steps), DistillerControl()
        self.best = BestSet()
        self.results: dict[str, Scores] = {}
        self._stop_signal = StopSignal()
        self._trackers = Trackers(self.accelerator, config.report_to)
        self._files = RunFolder(config, train_dataset, eval_dataset)
        self._filling = Filling(self._files)
        weakref.finalize(self, self._files.lock.release)  # `self` would never be collected

    # What the other parts of the trainer take.

    @property
    def _run(self) -> Run:
        run = Run(self.config, self.accelerator, self.networks_per_step, self.output_dir)
        return replace(run, own_losses=self._losses.any_custom)

    @property
    def _parts(self) -> Parts:
        return Parts(
            train=self.train_data,
            evaluation=self.eval_data,
            transform=self.transform,
            networks=self.networks,
            synthetic=self.synthetic,
            train_split=self.train_split,
            eval_split=self.eval_split,
        )

    @property
    def _train_state(self) -> TrainState:
        return TrainState(
            synthetic=self.synthetic,
            networks=self.networks,
            train_data=self.train_data,
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
            position=self.state,
            best=self.best,
        )

    @property
    def _report(self) -> Report:
        return Report(self._run, self._parts, position=self.state, results=self.results)

    @property
    def _outer_step(self) -> OuterStep:
        run, state = self._run, self._train_state
        storage = storage_of(run, state)
        return OuterStep(
            run, state, real_batch=self.real_batch, window=self.window, storage=storage
        )

    @property
    def architectures(self) -> Architectures:
        """The networks of a run that trains them from scratch."""
        assert isinstance(self.networks, Architectures)
        return self.networks

    @property
    def _losses(self) -> Losses:
        kind = type(self)
        inner = self._inner_loss or kind.compute_inner_loss is not Distiller.compute_inner_loss
        outer = self._outer_loss or kind.compute_outer_loss is not Distiller.compute_outer_loss
        return Losses(self.compute_inner_loss, self.compute_outer_loss, bool(inner), bool(outer))

    # What a subclass may override.

    def compute_inner_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of inner training.

        ``labels`` are indices. When learned, they are floating point: probabilities, or weights of
        any sign with ``label_form="weights"``.
        """
        return (self._inner_loss or default_loss)(logits, labels)

    def compute_outer_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the trained network on real images."""
        return (self._outer_loss or default_loss)(logits, labels)

    def create_optimizer_and_scheduler(self) -> tuple[torch.optim.Optimizer, Any]:
        """Return the outer optimizer and its schedule."""
        return make_outer_optimizer(self.config, self.synthetic.leaves())

    def real_batch(self, step: int, index: int) -> tuple[Tensor, Tensor]:
        """Return the real images for the outer loss of one network, as network input."""
        config = self.config
        seed = mix(config.seed, Purpose.REAL_BATCH, step, index)
        size = real_batch_size(config, self.train_data)
        images, labels = self.train_data.batch(size, seed, balanced=True)
        return training_input(self.synthetic, images, seed, groups=labels), labels

    # The loop.

    def train(self, resume_from_checkpoint: str | bool | None = None) -> DistillerState:
        """Run the outer steps that are left.

        Called again, it goes on where it ended: after an interruption, or with a constant schedule
        of the learning rates when ``config.max_steps`` was raised.

        SIGINT (Ctrl-C) and SIGTERM end the run after the step under way, with a checkpoint; then
        ``state.interrupted`` is the name of the signal.

        Args:
            resume_from_checkpoint: a checkpoint folder, or True or ``"latest"`` for the newest of
                the output folder; by default ``config.resume_from_checkpoint``.

        Raises:
            NonFiniteError: too many steps in a row were not finite.
            VerificationError: the gradient of a network is wrong.
            ValueError: there is no such checkpoint, or it belongs to another run; or ``max_steps``
                was changed, on which the schedule of the learning rates depends; or a loss does not
                take what it is given.
        """
        take_max_steps(self.state, self.config, self._scheduled_steps)
        if (losses := self._losses).any_custom:
            check_losses(losses.inner, losses.outer, self.synthetic)
        self.best.go_on(self.synthetic)
        if self.head is None:
            self.architectures.verify(self.synthetic, self.config, self.train_data)
        run, state = self._run, self._train_state
        if begin_or_resume(run, state, self._files, resume_from_checkpoint):
            self.results = {}
        check_course(run, state)
        self.state.interrupted, self.control.should_training_stop = None, False
        self._trackers.start(self.config)
        if self.head is not None:
            with unwinding_on_sigterm(), self._files.steps(self.state):
                self.head.prepare()
        self._filling.begin(self._report)
        self._call("on_train_begin")
        progress = Progress(self.state, Workload.of(self._run, self.synthetic, self.train_data))
        compiling = AutoCompile(run, state, lambda: self._outer_step.try_out())
        with self._stop_signal, self._files.steps(self.state), compiling:
            while self.state.global_step < self.config.max_steps:
                loss = compiling.take(self.training_step)
                self._after_step(loss, progress)
                if self.control.should_training_stop or self.state.interrupted:
                    break
        if not self.state.interrupted:
            check_skipped(self.state, self.config)
            self.best.restore(self.synthetic)
        self._call("on_train_end")
        return self.state

    def training_step(self) -> float:
        """Do one outer step: average the networks' gradients and move the synthetic set.

        Returns:
            The mean outer loss, not finite if the step was skipped.
        """
        loss = self._outer_step.take(self._stop_signal)
        self.results = {}  # they were of other images
        return loss

    def _after_step(self, loss: float, progress: Progress) -> None:
        state, control = self.state, self.control
        progress.add(loss)
        self._call("on_step_end")
        if control.should_log:
            self.log(progress.line(self.lr_scheduler.get_last_lr()[0], self.accelerator.device))
        if control.should_evaluate and self.eval_data is not None:
            metrics = self.evaluate()
            if self.config.load_best_model_at_end:
                self.best.note(self.synthetic, state, metrics["accuracy_mean"])
        if control.should_evaluate or state.interrupted:
            self._filling.fill(self._report, self.best)
        is_due = control.should_save or (state.interrupted and self.config.save_steps)
        if is_due and save_or_warn(self._train_state, self._run, self._report.describe):
            self._call("on_save")
        control.should_log = control.should_evaluate = control.should_save = False

    def log(self, logs: dict[str, Any]) -> None:
        """Add values to the log and hand them to trackers and callbacks."""
        self.state.log_history.append({"step": self.state.global_step, **logs})
        self._trackers.log(logs, self.state.global_step)
        self._call("on_log", logs=logs)

    def _call(self, event: str, **more: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.config, self.state, self.control, distiller=self, **more)

    def evaluate(self, networks: int | None = None) -> dict[str, float]:
        """Train fresh networks on the distilled set as it is and test them.

        Args:
            networks: how many of each architecture; by default ``config.eval_networks``. A fixed
                initialization is one.

        Returns:
            ``accuracy_mean``, ``accuracy_std`` and ``networks``; of several architectures also
            ``accuracy_mean/NAME`` of each, of which ``accuracy_mean`` is the mean.

        Raises:
            ValueError: there is no evaluation data, or ``networks`` is less than 1.
        """
        count = self.config.eval_networks if networks is None else networks
        metrics = metrics_of(Evaluator(self._run, self._parts).distilled(count))
        self.log({f"eval_{name}": value for name, value in metrics.items()})
        self._trackers.log_images(self.synthetic, self.state.global_step)
        self._call("on_evaluate", metrics=metrics)
        return metrics

    def compare(self) -> dict[str, Scores]:
        """Evaluate the distilled set and, beside it, real images: as many, and all of them.

        Returns:
            Scores by name, which print as a table; baselines only with ``config.baselines``.

        Raises:
            ValueError: there is no evaluation data.
        """
        evaluator = Evaluator(self._run, self._parts)
        self.results = evaluator.results()
        if self.config.baselines:
            self.results |= evaluator.baselines()
        return self.results

    # Files.

    def save_model(self, output_dir: str | Path | None = None) -> Path:
        """Write the distilled set, its picture, the curve of the run and the table.

        Args:
            output_dir: where; by default ``config.output_dir``, or the folder in
                ``config.rescue_dir`` that took the set before.

        Returns:
            The folder that holds it.

        Raises:
            SaveError: it cannot be written, neither there nor where the configuration says.
            ValueError: another folder has files that would be replaced, and no distilled set; or
                ``config.output_dir`` holds a set that this run did not write.
        """
        return self._files.save_from(self.accelerator, self._report.write, output_dir)

    def end(self) -> None:
        """Close trackers and processes; the last call of a script."""
        self._trackers.close()

    def push_to_hub(self, repo_id: str | None = None) -> str:
        """Publish what `save_model` writes as a data set on the Hub, in one commit.

        Args:
            repo_id: where; by default ``config.hub_dataset_id``.

        Returns:
            The address of the commit; empty on all but the main process.

        Raises:
            ValueError: it is not known where to.
            PushError: the Hub does not take it; the folder is there to be pushed again.
        """
        return publish(self._run, self.save_model, repo_id)
