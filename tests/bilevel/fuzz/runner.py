"""Run a case in every way and compare each with the whole graph."""

from __future__ import annotations

import copy
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dd_plugin.bilevel import (
    BilevelProblem,
    CompileWarning,
    Hypergradient,
    MissingRuleWarning,
    VerificationError,
    hypergradient,
    hypergradients,
    initial_state,
)
from dd_plugin.seeds import InnerPurpose, mix
from tests.bilevel.fuzz.cases import Case, make
from tests.bilevel.fuzz.operations import Checkpointed
from tests.bilevel.problems import ROLES, assert_unchanged, frozen_copy

TOLERANCE = 1e-9
# How far inputs are moved to see how much the whole graph itself moves.
MOVED = 1e-12
# The multiple of that which is allowed where it is more than the tolerance.
ALLOWED = 10
# What moves by more than this is nothing but rounding: the adjoint of Adam's second moment, say,
# where the gradient is 0 in exact arithmetic.
NOISE = 1e-2
# The part of the norm of its role below which a tensor's own norm is not what an error is taken
# relative to: a gradient that is 0 (of a bias before a normalization) is left over from rounding.
PART = 1e-4


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        number: of the case.
        status: "passed", "failed" or "refused".
        error: the worst relative error of all ways.
        ways: the error by way: "mixed", "reverse", "traced", "batched", "plain".
        refused: what the engine said, by way; a case is refused where it has no reference.
        trouble: what is wrong, by way; empty for what passed.
        sensitive: by way, how far the whole graph moved where more than the tolerance was allowed.
        features: of the case.
        seconds: it took.
    """

    number: int
    status: str = "passed"
    error: float = 0.0
    ways: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    sensitive: dict[str, float] = field(default_factory=dict)
    features: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        found = asdict(self)
        found["seconds"] = round(self.seconds, 2)
        for key in ("ways", "sensitive"):
            found[key] = {way: float(f"{error:.2e}") for way, error in found[key].items()}
        found["error"] = float(f"{self.error:.2e}")
        return {key: value for key, value in found.items() if value not in ({}, [])}


# What torch's vmap warns of, of no concern to who batches networks.
OF_VMAP = ("was resized", "performance drop")
Named = dict[str, list[Tensor]]


def tensors_of(result: Hypergradient) -> Named:
    """Everything that a result holds, by role."""
    found: Named = {}
    for role in (*ROLES, "final"):
        leaves = pytree.tree_leaves(getattr(result, role))
        found[role] = [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]
    bars = result.batches.values()
    found["images"] = [b.images for b in bars]
    found["labels"] = [b.labels for b in bars if b.labels is not None]
    return found


def differences(one: Named, other: Named) -> Iterator[tuple[str, int, float]]:
    """(role, index, relative error) for every tensor of ``other``, see `PART`."""
    for role, expected in other.items():
        assert len(one[role]) == len(expected), role
        whole = sum(float(t.square().sum()) for t in expected) ** 0.5
        for index, (a, b) in enumerate(zip(one[role], expected, strict=True)):
            a, b = a.detach(), b.detach()
            size = max(float(b.norm()), PART * whole)
            apart = float((a - b).norm())
            yield role, index, apart / size if size > 1e-14 else apart


class Judge:
    """One case: its reference, and what is compared with it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.outcome = Outcome(case.number, features=case.features)
        self.problem = BilevelProblem(case.model, **case.problem)

    def reference(self, **more: Any) -> Hypergradient:
        """The whole graph."""
        arguments = {**self.case.arguments, **more}
        return hypergradient(self.problem, method="autograd", **arguments)

    def moved_reference(self) -> Named:
        """The whole graph where weights and step sizes are off by 1e-12 of themselves."""
        generator = torch.Generator().manual_seed(0)

        def moved(t: Any) -> Any:
            if isinstance(t, float):
                return t * (1 + MOVED)
            return t * (1 + MOVED * torch.randn(t.shape, generator=generator, dtype=t.dtype))

        with torch.no_grad():
            weights = {n: moved(t) for n, t in self.problem.model.parameters.items()}
        found = self.reference(parameters=weights)
        return tensors_of(found)

    def compare(self, way: str, found: Named, expected: Named) -> None:
        """Take down the worst error of a way."""
        errors = {(role, i): error for role, i, error in differences(found, expected)}
        place = max(errors, key=errors.__getitem__)
        worst = errors[place]
        if not worst < TOLERANCE:
            if way != "batched":
                allowed = {
                    (role, i): error
                    for role, i, error in differences(self.moved_reference(), expected)
                }
            else:
                allowed = dict.fromkeys(errors, 0.0)
            wrong = {
                where: error
                for where, error in errors.items()
                if not error < max(TOLERANCE, ALLOWED * allowed[where]) and allowed[where] < NOISE
            }
            if wrong:
                place = max(wrong, key=wrong.__getitem__)
                worst = wrong[place]
                self.fail(
                    way,
                    f"{worst:.1e} at {place[0]}[{place[1]}], where the whole graph moves by "
                    f"{allowed[place]:.1e}",
                )
            else:
                self.outcome.sensitive[way] = max(allowed.values())
                worst = max(e for e in errors.values() if e < TOLERANCE)
        self.outcome.ways[way] = worst
        self.outcome.error = max(self.outcome.error, worst)

    def fail(self, way: str, why: str) -> None:
        """Something is wrong."""
        self.outcome.status = "failed"
        self.outcome.trouble[way] = why

    # --- the ways ------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Every way of the case."""
        try:
            reference = self.reference()
        except (ValueError, TypeError, RuntimeError) as error:
            self.outcome.status = "refused"
            self.outcome.refused["autograd"] = said(error)
            return self.outcome
        if not reference.finite:
            self.outcome.status = "refused"
            self.outcome.refused["autograd"] = "not finite"
            return self.outcome
        expected = tensors_of(reference)
        # The engine draws for itself what it knows by name; the others are seeded.
        draws = any(specs for _, specs in self.problem.probes.values()) or any(
            isinstance(m, nn.FractionalMaxPool2d) for m in self.case.model.modules()
        )
        draws = draws or any("noisy" in f for f in self.case.features)
        for method in ("mixed", "reverse"):
            self.attempt(method, self.problem, expected, method)
        if self.case.traced:
            traced = BilevelProblem(self.case.model, compile="trace", **self.case.problem)
            # Twice: what a trace has spoilt shows in the call after.
            for _ in range(2):
                self.attempt("traced", traced, expected, "mixed")
        if self.case.batched and not draws:
            self.batched()
        if not draws:
            self.plain(reference)
        return self.outcome

    def attempt(self, way: str, problem: BilevelProblem, expected: Named, method: str) -> None:
        """One way against the reference."""
        arguments = self.case.arguments

        def run() -> Hypergradient:
            return hypergradient(problem, method=method, **arguments)  # type: ignore[arg-type]

        result = self.guarded(way, run)
        if result is None:
            return
        if result.method != method:
            self.outcome.features = [*self.case.features, "fell back to reverse"]
        if not result.finite:
            self.fail(way, "not finite")
            return
        self.compare(way, tensors_of(result), expected)

    def guarded(self, way: str, run: Callable[[], Any]) -> Any:
        """A result, or None where the engine refused; what it warned of is taken down."""
        with warnings.catch_warnings(record=True) as said_so:
            warnings.simplefilter("always")
            try:
                result = run()
            except VerificationError as error:
                self.fail(way, f"the net: {said(error)}")
                return None
            except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
                self.outcome.refused[way] = said(error)
                return None
        for warning in said_so:
            if issubclass(warning.category, CompileWarning):
                self.outcome.refused[way] = f"ran eagerly: {warning.message}"[:300]
                return None
            known = (MissingRuleWarning, FutureWarning, DeprecationWarning)
            ours = not any(text in str(warning.message) for text in OF_VMAP)
            if not issubclass(warning.category, known) and ours:
                self.fail(f"{way}, warning", str(warning.message)[:300])
        return result

    def batched(self) -> None:
        """Two networks at once against the mean of the whole graph of each."""
        first = initial_state(self.problem)
        second = first._replace(parameters={n: 0.9 * t for n, t in first.parameters.items()})
        arguments = dict(self.case.arguments)

        def run() -> Any:
            return hypergradients(
                self.problem, networks=[first, second], mode="batched", **arguments
            )

        result = self.guarded("batched", run)
        if result is None:
            return
        seed = arguments["seed"]
        each = [
            self.reference(
                initial=state, model_seed=mix(seed, InnerPurpose.ENSEMBLE_NETWORK, index)
            )
            for index, state in enumerate((first, second))
        ]
        roles = ("outer_loss", "step_size", "hyperparameters", "constants", "leaves")
        both = [tensors_of(one) for one in each]
        expected = {
            role: [torch.stack(pair).mean(0) for pair in zip(*(b[role] for b in both), strict=True)]
            for role in (*roles, "images", "labels")
        }
        mean = tensors_of(result.mean)
        found = {role: mean[role] for role in expected}
        for role in ("parameters", "statistics"):
            found[role] = [t for network in getattr(result, role) for t in network.values()]
            expected[role] = [t for b in both for t in b[role]]
        self.compare("batched", found, expected)

    def plain(self, reference: Hypergradient) -> None:
        """The forward run against a loop over the module itself, which knows no engine."""
        case = self.case
        if case.problem["stock_statistics"] == "constant":
            return
        model = copy.deepcopy(case.model).train()
        state = self.problem.optimizer.init(dict(self.problem.model.parameters))
        batches = case.arguments["batches"]
        # Plain training runs a checkpoint twice, and its statistics move twice.
        twice = any(isinstance(m, Checkpointed) for m in model.modules())
        # Torch's own derivative of hardsigmoid is that of float32, also in float64.
        coarse = any("ardsigmoid" in feature for feature in case.features)
        if callable(batches) or twice or coarse:
            return
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        trained = {n: p for n, p in trained.items() if n in self.problem.model.parameters}
        sizes, steps = case.arguments["step_size"], len(batches)
        losses = []
        for step in range(reference.stop):
            images, labels = (t.detach() for t in batches[step])
            loss = case.problem["inner_loss"](model(images), labels)
            losses.append(loss.detach())
            slopes = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            with torch.no_grad():
                g = {
                    n: torch.zeros_like(p) if slope is None else slope
                    for (n, p), slope in zip(trained.items(), slopes, strict=True)
                }
                now = {n: p.detach().clone() for n, p in trained.items()}
                size = at(sizes, step, steps)
                new, state = self.problem.optimizer.update(g, state, now, size)
                for n, p in trained.items():
                    p.copy_(new[n])
                for module in model.modules():
                    for n, b in module._buffers.items():
                        module._buffers[n] = None if b is None else b.detach()
        model.train(case.problem["outer_training"])
        outer = case.arguments["outer_batch"]
        outer = [outer] if isinstance(outer, tuple) else outer
        total = sum(len(x) for x, _ in outer)
        value = torch.zeros((), dtype=torch.float64)
        before = {n: b.clone() for n, b in model.named_buffers()}
        with torch.no_grad():
            for x, y in outer:
                for n, b in model.named_buffers():
                    b.copy_(before[n])
                value += case.problem["outer_loss"](model(x), y) * (len(x) / total)
        run = reference.inner_losses
        expected = {"inner_losses": [run], "outer_loss": [reference.outer_loss]}
        found = {"inner_losses": [torch.stack(losses)[-len(run) :]], "outer_loss": [value]}
        expected["parameters"] = list(reference.final.parameters.values())
        found["parameters"] = [trained[n] for n in reference.final.parameters]
        self.compare("plain", found, expected)


def at(sizes: Any, step: int, steps: int) -> Any:
    """The step size of a step."""
    if isinstance(sizes, dict):
        return {group: at(size, step, steps) for group, size in sizes.items()}
    if isinstance(sizes, Tensor):
        return sizes.detach()[step] if sizes.dim() else sizes.detach()
    return sizes


def said(error: BaseException) -> str:
    """The first line of an error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def _has_grad(t: Tensor) -> bool:
    return t.is_leaf and t.grad is not None


def _generators() -> list[Any]:
    return [torch.get_rng_state(), str(random.getstate()), str(np.random.get_state())]  # noqa: NPY002


def judge(number: int, traced: bool | None = None) -> Outcome:
    """Run the case of a number; it must leave all that it was given as it was.

    Args:
        number: of the case.
        traced: whether to run it traced, which takes seconds; by default a third of all is.
    """
    began = time.perf_counter()
    case = make(number)
    case.traced = case.traced if traced is None else traced
    before, generators = frozen_copy(case.model), _generators()
    given = [
        (t, t.detach().clone())
        for t in pytree.tree_leaves(
            [case.arguments["outer_batch"], case.leaves, case.arguments["step_size"]]
            + ([] if callable(case.arguments["batches"]) else [case.arguments["batches"]])
        )
        if isinstance(t, Tensor)
    ]
    judged = Judge(case)
    outcome = judged.run()
    try:
        assert_unchanged(case.model, before)
        assert all(torch.equal(t, old) and not _has_grad(t) for t, old in given), "an input"
        now = _generators()
        assert torch.equal(now[0], generators[0]), "torch's generator"
        assert now[1:] == generators[1:], "a generator"
    except AssertionError as error:
        judged.fail("unchanged", f"was changed: {error}"[:300])
    outcome.seconds = time.perf_counter() - began
    return outcome
