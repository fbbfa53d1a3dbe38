"""The faults, and how one is put into a copy of the repository."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One line, or a few, that become wrong.

    Attributes:
        name: for the table and for ``--only``.
        file: where `old` was last seen, below ``dd_plugin/``. Where it is not there any more, the
            one file that has it is taken.
        old: stands in that file once.
        new: takes its place.
        tests: who has to notice, below ``tests/``; ``file::test`` where the whole file takes
            minutes. Where a test is gone, its file has to; where a file is gone, its folder.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


class MovedError(Exception):
    """The text of a fault is in no file, or in several: give it anew."""


def place_of(fault: Fault, package: Path) -> Path:
    """The file that has the text of a fault.

    Raises:
        MovedError: there is none, or the text is there several times.
    """
    named = package / fault.file
    candidates = [named] if named.exists() and fault.old in named.read_text("utf-8") else []
    if not candidates:
        paths = sorted(package.rglob("*.py"))
        candidates = [path for path in paths if fault.old in path.read_text("utf-8")]
    if len(candidates) != 1 or candidates[0].read_text("utf-8").count(fault.old) != 1:
        places = ", ".join(str(p.relative_to(package)) for p in candidates) or "no file"
        raise MovedError(f"{fault.name}: the text must stand once in one file, is in {places}")
    return candidates[0]


def targets_of(fault: Fault, tests: Path) -> list[str]:
    """The tests that have to notice, as far as they are where they were."""
    found = []
    for name in fault.tests:
        file, _, test = name.partition("::")
        path = tests / file
        is_there = test and path.exists() and f"def {test}(" in path.read_text("utf-8")
        while not path.exists():
            path = path.parent
        target = os.path.relpath(path, tests.parent)
        found.append(f"{target}::{test}" if is_there else target)
    return sorted(set(found))


FAULTS = (
    Fault(
        "moments of a tangent",
        "bn/rules.py",
        "return ty, tm, 2 * q / r",
        "return ty, tm, q / r",
        ("bn/test_rules.py",),
    ),
    Fault(
        "cotangent of the variance",
        "bn/rules.py",
        "    k1 = (2 * dv / r - w * r * c) / n\n    return",
        "    k1 = (dv / r - w * r * c) / n\n    return",
        ("bn/test_rules.py",),
    ),
    Fault(
        "tracked mean without its correction",
        "bn/policy.py",
        '= effective["running_mean"] * (1 + self.mean_correction)',
        '= effective["running_mean"] * (1 + 0 * self.mean_correction)',
        ("bn/test_layer.py",),
    ),
    Fault(
        "nesterov",
        "bilevel/optimizers.py",
        "g = g + mu * buffer if nesterov else buffer",
        "g = g + buffer if nesterov else buffer",
        ("bilevel/test_optimizers.py",),
    ),
    Fault(
        "bias of adam's square",
        "bilevel/optimizers.py",
        "(1 - beta1**n, (1 - beta2**n) ** 0.5)",
        "(1 - beta1**n, 1 - beta2**n)",
        ("bilevel/test_optimizers.py",),
    ),
    Fault(
        "adjoint of the optimizer's state",
        "bilevel/driver.py",
        "optimizer=pulled.optimizer,",
        "optimizer=tree_map(torch.zeros_like, pulled.optimizer),",
        ("bilevel/test_hypergradient_closed_forms.py",),
    ),
    Fault(
        "adjoint of a batch that two steps share",
        "bilevel/input_adjoints.py",
        "images_bar = self._latest_bars[0] + images_bar",
        "images_bar = self._latest_bars[0] + 0 * images_bar",
        ("bilevel/test_input_adjoints.py",),
    ),
    Fault(
        "shares of several outer batches",
        "bilevel/plan.py",
        "len(images) / sum(len(x) for x, _ in self.outer_batches)",
        "1 / len(self.outer_batches)",
        ("bilevel/test_plan.py", "bilevel/test_input_adjoints.py"),
    ),
    Fault(
        "random windows never end last",
        "bilevel/windows.py",
        "torch.randint(steps - self.length + 1, ()",
        "torch.randint(max(steps - self.length, 1), ()",
        ("bilevel/test_windows.py",),
    ),
    Fault(
        "statistics of a step that is run again",
        "bilevel/trajectory.py",
        "state = state._replace(statistics=statistics, counters=counters)",
        "state = state._replace(counters=counters)",
        ("bilevel/test_trajectory.py",),
    ),
    Fault(
        "networks of an ensemble share random numbers",
        "bilevel/ensembles.py",
        "model_seed=mix(seed, InnerPurpose.ENSEMBLE_NETWORK, index)",
        "model_seed=mix(seed, InnerPurpose.ENSEMBLE_NETWORK)",
        ("bilevel/test_ensembles.py",),
    ),
    Fault(
        "verification looks away",
        "bilevel/verification.py",
        "errors, most = self.errors(forward, swept), share * self.tolerance",
        "errors, most = self.errors(forward, swept), 1e6 * self.tolerance",
        ("bilevel/test_verification.py",),
    ),
    Fault(
        "what is wrong next to a corner passes",
        "bilevel/verification.py",
        "swept, share=_OF_TOLERANCE):",
        "swept, share=1e6):",
        ("bilevel/test_verification.py",),
    ),
    Fault(
        "minibatches are drawn with replacement",
        "data/synthetic.py",
        "mix(seed, InnerPurpose.MINIBATCHES, step // per_pass)",
        "mix(seed, InnerPurpose.MINIBATCHES, step)",
        ("data/test_synthetic.py",),
    ),
    Fault(
        "inverse of a normalization",
        "data/transforms.py",
        "return images * self._std.to(images) + self._mean.to(images)",
        "return images * self._std.to(images) - self._mean.to(images)",
        ("data/test_transforms.py",),
    ),
    Fault(
        "covariance of whitening",
        "data/whitening.py",
        "torch.outer(mean, mean)) / (count - 1)",
        "torch.outer(mean, mean)) / count",
        ("data/test_whitening.py",),
    ),
    Fault(
        "flips of the other axis",
        "data/augmentation.py",
        "torch.where(flipped, images.flip(3), images)",
        "torch.where(flipped, images.flip(2), images)",
        ("data/test_augmentation.py",),
    ),
    Fault(
        "deviation of a population",
        "evaluation/scores.py",
        "return statistics.stdev(self.accuracies)",
        "return statistics.pstdev(self.accuracies)",
        ("evaluation/test_scores.py",),
    ),
    Fault(
        "bias of a ridge head",
        "networks/head_solvers.py",
        "(tau * mean - weight @ center)",
        "(mean - weight @ center)",
        ("networks/test_head_solvers.py",),
    ),
    Fault(
        "moving norm after a clipped step",
        "distiller/clipping.py",
        "            norm = limit * usual\n",
        "",
        ("distiller/test_clipping.py::test_gradients_far_over_their_moving_norm_are_clipped",),
    ),
    Fault(
        "networks of a step share random numbers",
        "distiller/outer_step.py",
        "mix(config.seed, Purpose.MODEL_NOISE, step, index)",
        "mix(config.seed, Purpose.MODEL_NOISE, step)",
        ("distiller/test_distiller.py::test_networks_of_a_step_draw_random_numbers_of_their_own",),
    ),
    Fault(
        "one checkpoint too many is kept",
        "distiller/checkpoint.py",
        "[: -limit if limit else 0]",
        "[: -limit - 1 if limit else 0]",
        ("distiller/test_checkpoint.py::test_old_checkpoints_are_deleted_over_the_limit",),
    ),
    Fault(
        "checksums are not compared",
        "hub/reading.py",
        "entry.size != size or entry.sha256 != digest",
        "entry.size != size",
        ("hub/test_reading.py",),
    ),
    Fault(
        "one network with a deviation",
        "evaluation/scores.py",
        "percent(self.mean, self.std if len(self.accuracies) > 1 else None)",
        "percent(self.mean, self.std)",
        ("hub/card/test_results.py",),
    ),
    Fault(
        "a commit over somebody else's",
        "hub/remote/push.py",
        "parent_commit=plan.head if on_head else None",
        "parent_commit=None",
        (
            "hub/remote/test_push_failures.py::test_what_somebody_else_commits_meanwhile_is_built_upon",
        ),
    ),
    Fault(
        "tokens in messages",
        "text.py",
        'return _TOKEN.sub("hf_...", text)',
        "return text",
        ("test_text.py",),
    ),
    Fault(
        "options with dashes",
        "cli/__init__.py",
        'name[2:].replace("-", "_")',
        "name[2:]",
        ("cli/together/test_spelling.py",),
    ),
    Fault(
        "weights with gaps for oneDNN",
        "bilevel/tracing/products.py",
        'if node.meta["val"].stride() in ((columns, 1), (1, rows)):',
        "if node is not None:",
        ("bilevel/tracing/test_products.py",),
    ),
    Fault(
        "kernel gradients of two strides as one",
        "bilevel/tracing/kernel_gradients.py",
        "if first is second or one[_OTHERS] != other[_OTHERS]:",
        "if first is second:",
        ("bilevel/tracing/test_kernel_gradients.py",),
    ),
    Fault(
        "minus infinity is finite",
        "bilevel/host_reads.py",
        "for end in (t.amin(), t.amax())]",
        "for end in (t.amax(), t.amax())]",
        ("bilevel/test_host_reads.py",),
    ),
    Fault(
        "the state of another step",
        "bilevel/trajectory.py",
        "state = self._states.pop(index, state)",
        "state = self._states.pop(index + 1, state)",
        ("bilevel/test_trajectory.py",),
    ),
)
