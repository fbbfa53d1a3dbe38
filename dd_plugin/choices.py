"""What several parts share: the values of settings, as types, and a number.

At the bottom. The layer, the engine and the recipe of a set import them, and the settings of a run
do so too. So these can be read and checked without torch.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

# Of the layer.
Statistics: TypeAlias = Literal["learned", "tracked", "frozen"]
TrainWith: TypeAlias = Literal["batch", "running"]
# Of a run.
Corrections: TypeAlias = Literal["learned", "none"]

# Of the engine.
MethodName: TypeAlias = Literal["mixed", "reverse", "autograd"]

# Of a distilled set.
Batching: TypeAlias = Literal["all", "groups", "minibatches"]
Init: TypeAlias = Literal["fixed", "random", "pool"]
Precision: TypeAlias = Literal["no", "bf16"]
Trainable: TypeAlias = Literal["all", "head"]
HeadKind: TypeAlias = Literal["ridge", "unroll"]
LabelForm: TypeAlias = Literal["probabilities", "weights"]

# Fresh networks of each row, where a set is evaluated after its run.
EVALUATED_NETWORKS: Final = 5
# Of a comparison: what stands beside the distilled images, in the order of its table.
BaselineName: TypeAlias = Literal[
    "hard_labels",
    "learned_labels_on_random",
    "random_real",
    "centroid",
    "herding",
    "k_center",
    "easiest",
    "hardest",
    "full_data",
]
