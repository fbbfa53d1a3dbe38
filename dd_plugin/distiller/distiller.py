"""`Distiller`: the trainer, from data and a network to a distilled set.

The middle of the package: `parts` makes the parts from a `DistillerConfig`; here are the outer
loop, its evaluation and its bookkeeping; `checkpoint` saves and restores a run and `report` draws
its results. It runs on Accelerate: every process unrolls its own networks on its own real batches,
and the gradients are averaged. Whatever is random is a function of the seed, the outer step and the
index of the network, so a resumed run and one on other processes take the same steps.
"""

from __future__ import annotations

import logging
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from dd_plugin.bilevel import cross_entropy as default_loss
from dd_plugin.bilevel import hypergradient
from dd_plugin.bilevel.problem import Loss
from dd_plugin.distiller.agreement import check_construction, check_course
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.best import BestSet
from dd_plugin.distiller.callbacks import (
    DistillerCallback,
    DistillerControl,
    DistillerState,
    IntervalCallback,
    ProgressCallback,
    checked_callbacks,
)
from dd_plugin.distiller.checkpoint import (
    checkpoints,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    set_aside_later,
)
from dd_plugin.distiller.clipping import clip_by_moving_norm
from dd_plugin.distiller.config import ENDLESS_SCHEDULES, DistillerConfig
from dd_plugin.distiller.evaluating import baseline_scores, distilled_scores
from dd_plugin.distiller.folder_lock import check_not_in_use
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.losses import Losses
from dd_plugin.distiller.network_checks import check_losses
from dd_plugin.distiller.output_folder import check_apart, check_writable, holds
from dd_plugin.distiller.parts import make_parts, make_storage, make_window
from dd_plugin.distiller.progress import Progress
from dd_plugin.distiller.report import write_report
from dd_plugin.distiller.run_folder import RunFolder, SaveError
from dd_plugin.distiller.setting_checks import check_selection_data
from dd_plugin.distiller.stopping import StopSignal, unwinding_on_sigterm
from dd_plugin.evaluation import Scores
from dd_plugin.hub import check_target, push_folder
from dd_plugin.hub.folder import preview
from dd_plugin.networks.fresh import ModelInit
from dd_plugin.seeds import Purpose, mix

logger = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Outer steps were not finite too many times in a row."""


class Distiller:
    """Distils a data set into a few synthetic images.

    Args:
        model_init: a function that makes a network, a network (a fixed initialisation), or a
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
        PushError: ``push_to_hub``, and the Hub would not take it.

    Attributes:
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
        config = config or DistillerConfig()
        if isinstance(model_init, str):
            config, model_init = config.with_model(model_init), None
        elif isinstance(model_init, (list, tuple)) and all(isinstance(m, str) for m in model_init):
            config, model_init = config.with_model(*model_init), None
        self.config = config
        self.output_dir = Path(config.output_dir)
        self._inner_loss, self._outer_loss = inner_loss, outer_loss
        trackers = [name for name in config.report_to if name != "none"]
        self.accelerator = accelerator or Accelerator(
            log_with=trackers or None, project_dir=config.output_dir
        )
        world = self.accelerator.num_processes
        self.networks_per_step = config.networks_per_step or world
        if self.networks_per_step % world:
            raise ValueError(
                f"`networks_per_step` must be a multiple of the number of processes, {world}, got "
                f"{self.networks_per_step}; leave it out for one per process"
            )
        made_callbacks = checked_callbacks(callbacks)
        for images in (train_dataset, eval_dataset):
            check_apart(self.output_dir, images)
        if config.resume_from_checkpoint is not None:
            find_checkpoint(self.output_dir, config.resume_from_checkpoint)
        if self.accelerator.is_main_process:
            check_not_in_use(self.output_dir)
            check_writable(self.output_dir)
            if config.rescue_dir is not None:
                check_writable(Path(config.rescue_dir), "rescue_dir")
            if config.push_to_hub:
                # A wrong token should not cost the run.
                check_target(
                    str(config.hub_dataset_id),
                    token=config.hub_token,
                    private=config.hub_private_repo or None,
                    revision=config.hub_revision,
                )
        self.dtype = getattr(torch, config.dtype)
        parts = make_parts(
            config,
            model_init,
            train_dataset,
            eval_dataset,
            losses=Losses(self.compute_inner_loss, self.compute_outer_loss, *self._own_losses()),
            device=self.accelerator.device,
            dtype=self.dtype,
        )
        self.train_data, self.eval_data = parts.train, parts.evaluation
        if world > 1:
            self.train_data.share(self.accelerator.process_index, world)
        self.train_split, self.eval_split = parts.train_split, parts.eval_split
        if config.load_best_model_at_end:
            check_selection_data(self.eval_data is not None, self.eval_split)
        self.transform, self.networks = parts.transform, parts.networks
        self.synthetic = parts.synthetic
        self.head = self.networks if isinstance(self.networks, HeadCourse) else None
        recipe = self.synthetic.recipe
        names = [one.model for one in (recipe.backbones if self.head else recipe.architectures)]
        nameless = model_init is None and None in names
        if nameless and self.accelerator.is_main_process:
            logger.warning(
                "a network is in a file or folder of this machine, so the recipe does not name "
                "it. Whoever trains on the distilled set needs that network. Give the id of a "
                "model on the Hub, or timm/NAME, to have it in the recipe"
            )
        check_construction(self)
        self.window, self.storage = make_window(config), make_storage(config)
        self.optimizer, self.lr_scheduler = self.create_optimizer_and_scheduler()
        self._scheduled_steps = config.max_steps
        self.state = DistillerState(max_steps=config.max_steps)
        self.control = DistillerControl()
        self.callbacks = [IntervalCallback(), ProgressCallback(), *made_callbacks]
        self.best = BestSet()
        self.results: dict[str, Scores] = {}
        self._stop_signal = StopSignal()
        self._tracking = True
        self._files = RunFolder(config)
        # Not `self`, which would never be collected.
        weakref.finalize(self, self._files.lock.release)

    @property
    def architectures(self) -> Architectures:
        """The networks of a run that trains them from scratch."""
        assert isinstance(self.networks, Architectures)
        return self.networks

    def _own_losses(self) -> tuple[bool, bool]:
        """Whether the inner and the outer loss are the user's."""
        own = type(self)
        inner = own.compute_inner_loss is not Distiller.compute_inner_loss
        outer = own.compute_outer_loss is not Distiller.compute_outer_loss
        return inner or self._inner_loss is not None, outer or self._outer_loss is not None

    # What a subclass may override.

    def compute_inner_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of inner training; ``labels`` are indices or, when learned, floating point.

        They are probabilities then, or weights of any sign with ``label_form="weights"``.
        """
        return (self._inner_loss or default_loss)(logits, labels)

    def compute_outer_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of the trained network on real images."""
        return (self._outer_loss or default_loss)(logits, labels)

    def create_optimizer_and_scheduler(self) -> tuple[torch.optim.Optimizer, Any]:
        """The outer optimizer and its schedule."""
        from transformers import get_scheduler

        config = self.config
        rates = {
            "images": config.learning_rate,
            "labels": config.label_lr,
            "step_sizes": config.step_size_lr,
            "constants": config.statistics_lr,
        }
        groups = [
            {"params": leaves, "lr": rates[kind], "name": kind}
            for kind, leaves in self.synthetic.leaves().items()
            if leaves
        ]
        optimizer = torch.optim.Adam(groups, betas=(config.adam_beta1, config.adam_beta2))
        scheduler = get_scheduler(
            config.lr_scheduler_type,
            optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=config.max_steps,
        )
        return optimizer, scheduler

    def real_batch(self, step: int, index: int) -> tuple[Tensor, Tensor]:
        """The real images on which a network of an outer step is judged, as network input."""
        config = self.config
        seed = mix(config.seed, Purpose.REAL_BATCH, step, index)
        images, labels = self.train_data.batch(config.real_batch_size, seed, balanced=True)
        images = self.synthetic.augmentation(images.to(self.dtype), seed, groups=labels)
        return self.transform(images), labels

    # The loop.

    def train(self, resume_from_checkpoint: str | bool | None = None) -> DistillerState:
        """Run the outer steps that are left.

        Called again, it goes on where it ended: after an interruption, or with a constant schedule
        of the learning rates when ``config.max_steps`` was raised.

        SIGINT and SIGTERM end the run after the step under way, with a checkpoint; `state` then
        says so.

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
        self._take_max_steps()
        if any(self._own_losses()):
            check_losses(self.compute_inner_loss, self.compute_outer_loss, self.synthetic)
        self.best.go_on(self.synthetic)
        if self.head is None:
            self.architectures.verify(self.synthetic, self.config)
        self._begin_or_resume(resume_from_checkpoint)
        check_course(self)
        self.state.interrupted = None
        self.control.should_training_stop = False
        self._start_trackers()
        if self.head is not None:
            with unwinding_on_sigterm(), self._folder_kept():
                self.head.prepare()
        self._call("on_train_begin")
        progress = Progress(self)
        with self._stop_signal, self._folder_kept():
            while self.state.global_step < self.config.max_steps:
                loss = self.training_step()
                self._after_step(loss, progress)
                if self.control.should_training_stop or self.state.interrupted:
                    break
        if not self.state.interrupted:
            self._check_skipped()
            self.best.restore(self.synthetic)
        self._call("on_train_end")
        return self.state

    @contextmanager
    def _folder_kept(self) -> Iterator[None]:
        """While steps are done. A run that ends early leaves its folder to those that go on."""
        self._files.lock.busy = True
        try:
            yield
        except BaseException:
            self._files.lock.release()
            raise
        self._files.lock.busy = False
        if self.state.interrupted:
            self._files.lock.release()

    def _begin_or_resume(self, checkpoint: str | bool | None) -> None:
        """Load what the run goes on from, and see to it that its folder holds no other course."""
        given = checkpoint or (
            None if self.state.global_step else self.config.resume_from_checkpoint
        )
        is_main, begins = self.accelerator.is_main_process, not self.state.global_step
        if given:
            path = find_checkpoint(self.output_dir, given)
            begins = not holds(self.output_dir, path)
            if is_main:
                self._files.begin(str(path), is_new=begins)
            load_checkpoint(self, path)
            self.results = {}
            self.accelerator.wait_for_everyone()
            if is_main and not begins:
                set_aside_later(self.output_dir, self.state.global_step)
        elif is_main:
            self._files.begin(None, is_new=begins)
        if is_main and begins:
            for old in checkpoints(self.output_dir):
                shutil.rmtree(old)

    def _take_max_steps(self) -> None:
        """Take over a ``max_steps`` that was changed since the schedule was made, if it may be."""
        config, then = self.config, self._scheduled_steps
        if config.max_steps != then and config.lr_scheduler_type not in ENDLESS_SCHEDULES:
            raise ValueError(
                f"`max_steps` is {config.max_steps} now and was {then} when the "
                f"{config.lr_scheduler_type} schedule of the learning rates was made, which ends "
                'with it; use lr_scheduler_type="constant", or a new Distiller with '
                "`resume_from_checkpoint`, whose images will not be those of an undisturbed run"
            )
        self.state.max_steps = config.max_steps

    def training_step(self) -> float:
        """One outer step: average the networks' gradients and move the synthetic set.

        Returns:
            The mean outer loss, not finite if the step was skipped.
        """
        accelerator, state = self.accelerator, self.state
        step, count = state.global_step, self.networks_per_step
        leaves = [leaf for group in self.synthetic.leaves().values() for leaf in group]
        total = [torch.zeros_like(leaf) for leaf in leaves]
        outer_loss = torch.zeros((), dtype=self.dtype, device=accelerator.device)
        finite = True
        for index in range(accelerator.process_index, count, accelerator.num_processes):
            found = self._hypergradient(step, index, leaves)
            finite &= found.finite
            outer_loss += found.outer_loss / count
            total = [sum_ + g / count for sum_, g in zip(total, found.leaves, strict=True)]
        stop = self._stop_signal.name is not None
        if accelerator.num_processes > 1:
            flags = torch.tensor([not finite, stop], dtype=self.dtype, device=accelerator.device)
            flat = torch.cat([flags, outer_loss.reshape(1), *(g.flatten() for g in total)])
            flat = torch.as_tensor(accelerator.reduce(flat, reduction="sum"))
            (unusable, stop), outer_loss = (flat[:2] > 0).tolist(), flat[2]
            finite = not unusable
            sizes = [g.numel() for g in total]
            parts = flat[3:].split(sizes)
            total = [p.view_as(g) for p, g in zip(parts, total, strict=True)]
        if stop:
            state.interrupted = self._stop_signal.name or "a signal to another process"
        if not finite:
            self._skip(step)
        else:
            state.consecutive_skipped = 0
            resting = self._resting(step)
            for leaf, gradient in zip(leaves, total, strict=True):
                leaf.grad = None if id(leaf) in resting else gradient
            clip_by_moving_norm(self.optimizer, state.gradient_norms, self.config.max_grad_norm)
        # Without gradients, after a step that was left out, nothing moves.
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.synthetic.constrain_()
        self.lr_scheduler.step()
        # They were of other images.
        self.results = {}
        state.global_step += 1
        return float(outer_loss)

    def _turn(self, step: int, index: int = 0) -> int:
        """The number of an inner run, over all outer steps."""
        return step * self.networks_per_step + index

    def _resting(self, step: int) -> set[int]:
        """What is learned about the architectures that a step does not take, by `id`.

        The step says nothing about these tensors, so the outer optimizer leaves them alone.
        """
        if self.head is not None:
            return set()
        turns = range(self._turn(step), self._turn(step + 1))
        places = self.architectures.resting(turns)
        return {id(t) for place in places for t in self.synthetic.constants(place).values()}

    def _hypergradient(self, step: int, index: int, leaves: list[Any]) -> Any:
        """The gradient of one network's outer loss."""
        config, synthetic = self.config, self.synthetic
        if self.head is not None:
            self.head.prepare()
            turn = self._turn(step, index)
            return self.head.gradient(synthetic, step, index, leaves, turn=turn)
        which = self.architectures.choice(self._turn(step, index))
        networks = self.architectures.members[which]
        start = networks.take(step, index)
        age = networks.age(index)
        seed = mix(config.seed, Purpose.INNER_RUN, step)
        batches = synthetic.batches(seed)
        found = hypergradient(
            networks.problem(),
            # A network of the pool goes on where its training by the recipe is.
            lambda k: batches(age + k),
            self.real_batch(step, index),
            step_size=synthetic.step_size(age, config.inner_steps),
            steps=config.inner_steps,
            window=self.window,
            method=config.method,
            storage=self.storage,
            seed=seed,
            model_seed=mix(config.seed, Purpose.MODEL_NOISE, step, index),
            initial=start,
            constants=synthetic.constants(which) or None,
            leaves=leaves,
            # A set may hold what the settings leave without effect.
            allow_unused=True,
        )
        networks.give_back(index, found.final, age + found.stop)
        self.state.inner_steps += found.stop
        return found

    def _skip(self, step: int) -> None:
        state = self.state
        state.skipped_steps += 1
        state.consecutive_skipped += 1
        logger.warning("outer step %d was not finite and is left out", step)
        if state.consecutive_skipped >= self.config.max_skipped_steps:
            raise NonFiniteError(
                f"{state.consecutive_skipped} outer steps in a row were not finite (up to step "
                f"{step}); the inner training diverges. Lower `inner_lr` or `step_size_lr`, or "
                "shorten `inner_steps`; the last checkpoint is as it was before"
            )

    def _check_skipped(self) -> None:
        """See that the set at the end of the run is one that was learned.

        Warns:
            UserWarning: more than half of the steps were left out.

        Raises:
            NonFiniteError: all of them were.
        """
        skipped, done = self.state.skipped_steps, self.state.global_step
        advice = (
            f"the inner training diverges. Lower `inner_lr` (now {self.config.inner_lr:g}) or "
            "`step_size_lr`, or shorten `inner_steps`"
        )
        if done and skipped >= done:
            raise NonFiniteError(
                f"none of the {done} outer steps was finite, so nothing was learned; {advice}"
            )
        if skipped > done / 2:
            warnings.warn(
                f"{skipped} of {done} outer steps were not finite and left out; {advice}",
                stacklevel=3,
            )

    def _after_step(self, loss: float, progress: Progress) -> None:
        state, control = self.state, self.control
        progress.add(loss)
        self._call("on_step_end")
        if control.should_log:
            self.log(progress.line())
        if control.should_evaluate and self.eval_data is not None:
            metrics = self.evaluate()
            if self.config.load_best_model_at_end:
                self.best.note(self.synthetic, state, metrics["accuracy_mean"])
        if control.should_save or (state.interrupted and self.config.save_steps):
            self._save_checkpoint()
        control.should_log = control.should_evaluate = control.should_save = False

    def log(self, logs: dict[str, Any]) -> None:
        """Add values to the log and hand them to trackers and callbacks."""
        self.state.log_history.append({"step": self.state.global_step, **logs})
        self._track(lambda: self.accelerator.log(logs, step=self.state.global_step))
        self._call("on_log", logs=logs)

    def _track(self, write: Callable[[], None]) -> None:
        """Write to the trackers; a run does not end for want of them."""
        if not self._tracking:
            return
        try:
            write()
        except OSError as error:
            self._tracking = False
            warnings.warn(
                f"the trackers {', '.join(self.config.report_to)} cannot be written to ({error}); "
                "the run goes on without them",
                stacklevel=4,
            )

    def _start_trackers(self) -> None:
        if self.config.report_to:
            plain = {
                k: v if isinstance(v, (int, float, str, bool)) else str(v)
                for k, v in self.config.to_dict().items()
            }
            self.accelerator.init_trackers(self.config.run_name or "dd_plugin", plain)

    def _call(self, event: str, **more: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.config, self.state, self.control, distiller=self, **more)

    # Evaluation.

    def evaluate(self, networks: int | None = None) -> dict[str, float]:
        """Train fresh networks on the distilled set as it is and test them.

        Args:
            networks: how many of each architecture; by default ``config.eval_networks``. A fixed
                initialisation is one.

        Returns:
            ``accuracy_mean``, ``accuracy_std`` and ``networks``; of several architectures also
            ``accuracy_mean/NAME`` of each, of which ``accuracy_mean`` is the mean.

        Raises:
            ValueError: there is no evaluation data, or ``networks`` is less than 1.
        """
        if networks is not None and networks < 1:
            raise ValueError(
                f"`networks` must be at least 1, got {networks}; leave it out for `eval_networks`"
            )
        count = self.config.eval_networks if networks is None else networks
        scores = distilled_scores(self, count)
        metrics = {
            "accuracy_mean": scores.mean,
            "accuracy_std": scores.std,
            "networks": float(len(scores.accuracies)),
            **{f"accuracy_mean/{name}": own.mean for name, own in scores.by_model.items()},
        }
        self.log({f"eval_{name}": value for name, value in metrics.items()})
        self._log_images()
        self._call("on_evaluate", metrics=metrics)
        return metrics

    def compare(self) -> dict[str, Scores]:
        """The table of a run: the distilled set, as many random real images, and the full data.

        Returns:
            Scores by name; the baselines only with ``config.baselines``.

        Raises:
            ValueError: there is no evaluation data.
        """
        self.results = {"distilled": distilled_scores(self, self.config.final_eval_networks)}
        if self.config.baselines:
            self.results |= baseline_scores(self)
        return self.results

    def _log_images(self) -> None:
        """The synthetic images as one picture, to trackers that take pictures."""
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                picture = np.asarray(preview(self.synthetic).convert("RGB"))[None]
                how = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                step = self.state.global_step
                self._track(partial(tracker.log_images, {"distilled": picture}, step=step, **how))

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
        if output_dir is not None and not str(output_dir):
            raise ValueError("`output_dir` must be a folder, got ''; leave it out for the run's")
        folder = self._files.place if output_dir is None else Path(output_dir)
        failure: OSError | ValueError | None = None
        if self.accelerator.is_main_process:
            try:
                folder = self._files.save(partial(write_report, self), folder)
            except (OSError, ValueError) as error:
                failure = error
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            where, text = broadcast_object_list([str(folder), str(failure or "")])
            folder = Path(where)
            if text and failure is None:
                failure = SaveError(text)
            # The sender is done before the others have it, and may be about to end.
            self.accelerator.wait_for_everyone()
        if failure is not None:
            raise failure
        return folder

    def end(self) -> None:
        """Close trackers and processes; the last call of a script."""
        try:
            self.accelerator.end_training()
        except OSError as error:
            warnings.warn(f"the trackers could not be closed ({error})", stacklevel=2)

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
        repo_id = self.config.hub_dataset_id if repo_id is None else repo_id
        if not repo_id:
            raise ValueError("`repo_id` must be given, or `hub_dataset_id` in the configuration")
        folder = self.save_model()
        address = ""
        if self.accelerator.is_main_process:
            done = push_folder(
                folder,
                repo_id,
                token=self.config.hub_token,
                private=self.config.hub_private_repo or None,
                revision=self.config.hub_revision,
                commit_message="Distilled by dd_plugin",
                on_progress=logger.info,
            )
            address = done.commit_url
        self.accelerator.wait_for_everyone()
        return address

    def _save_checkpoint(self) -> None:
        try:
            save_checkpoint(self)
        except OSError as error:
            # The run itself is in memory and sound; losing it for want of a file would be worse.
            warnings.warn(
                f"checkpoint {self.state.global_step} could not be written ({error}); the run goes "
                "on, earlier checkpoints are intact. Make room, or the work since the last one is "
                "lost when the run is stopped",
                stacklevel=3,
            )
            return
        self._call("on_save")
