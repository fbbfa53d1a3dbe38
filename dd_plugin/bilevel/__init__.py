"""The bilevel engine: exact gradients of a trained network's loss for what it was trained on.

Start at `hypergradient`. Read in this order: `functional` (a model as a pure function),
`optimizers` (U), `problem` (one step and its adjoint), `trajectory`, `windows`, `batches`,
`inputs`, `checks`, `plan` (the inputs of a run), `adjoints` (how it is differentiated), `driver`
(the recursion), which connects them, and `hypergradient`, the entry points. `foreign_models`
prepares ordinary models for it. The engine knows tensors and modules; images, data sets and
processes belong to other parts.
"""

from dd_plugin.bilevel.adaptive_window import AdaptingWindow, Adaptive
from dd_plugin.bilevel.adjoints import MissingRuleWarning
from dd_plugin.bilevel.ensembles import EnsembleHypergradient, hypergradients, initial_state
from dd_plugin.bilevel.foreign_models.second_order import (
    SecondOrderNeed,
    missing_rule_operation,
    second_order,
    second_order_needs,
)
from dd_plugin.bilevel.functional import FunctionalModel, logits_of
from dd_plugin.bilevel.hypergradient import hypergradient, unroll
from dd_plugin.bilevel.optimizers import Optimizer, adam, adamw, sgd
from dd_plugin.bilevel.problem import BilevelProblem, cross_entropy
from dd_plugin.bilevel.results import BatchGradient, Hypergradient, Unrolled
from dd_plugin.bilevel.step_values import RunState
from dd_plugin.bilevel.tracing.cache import CompileCacheWarning
from dd_plugin.bilevel.tracing.compile import CompileWarning
from dd_plugin.bilevel.tracing.recorded import RecordingWarning
from dd_plugin.bilevel.trajectory import Device, Host, Recompute, Storage
from dd_plugin.bilevel.verification import VerificationError, VerificationWarning
from dd_plugin.bilevel.windows import Full, Last, Random, Window

__all__ = [
    "AdaptingWindow",
    "Adaptive",
    "BatchGradient",
    "BilevelProblem",
    "CompileCacheWarning",
    "CompileWarning",
    "Device",
    "EnsembleHypergradient",
    "Full",
    "FunctionalModel",
    "Host",
    "Hypergradient",
    "Last",
    "MissingRuleWarning",
    "Optimizer",
    "Random",
    "Recompute",
    "RecordingWarning",
    "RunState",
    "SecondOrderNeed",
    "Storage",
    "Unrolled",
    "VerificationError",
    "VerificationWarning",
    "Window",
    "adam",
    "adamw",
    "cross_entropy",
    "hypergradient",
    "hypergradients",
    "initial_state",
    "logits_of",
    "missing_rule_operation",
    "second_order",
    "second_order_needs",
    "sgd",
    "unroll",
]
