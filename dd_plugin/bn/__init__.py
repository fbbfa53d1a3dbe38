"""Model surgery: BatchNorm layers whose running statistics gradients can reach, and back.

Read in this order: `arithmetic` (the mathematics), `policy` (what the statistics are), `layer` (how
they normalize), `mixins` (for other layers than torch's), `variants` (the class of a stock class),
`plan` (find and check), `convert` (swap and swap back). `graph_mode` holds the switch by which an
engine keeps tracked statistics in the graph, `local_sync` a layer for processes that train
different networks. This package imports torch only, and of dd_plugin the file of private names.
"""

from dd_plugin.bn.convert import (
    ConversionUndoneWarning,
    convert_bn,
    converted_layers,
    revert_bn,
    tracking_tensors,
    undone_layers,
    warn_if_undone,
)
from dd_plugin.bn.graph_mode import statistics_in_graph
from dd_plugin.bn.layer import LearnableStatistics
from dd_plugin.bn.plan import (
    ConversionPlan,
    NoBatchNormFoundError,
    PlannedLayer,
    UnsupportedBatchNormError,
    plan_conversion,
)
from dd_plugin.bn.policy import Statistics, TrainWith
from dd_plugin.bn.variants import (
    LearnableBatchNorm1d,
    LearnableBatchNorm2d,
    LearnableBatchNorm3d,
    learnable_class,
)

__all__ = [
    "ConversionPlan",
    "ConversionUndoneWarning",
    "LearnableBatchNorm1d",
    "LearnableBatchNorm2d",
    "LearnableBatchNorm3d",
    "LearnableStatistics",
    "NoBatchNormFoundError",
    "PlannedLayer",
    "Statistics",
    "TrainWith",
    "UnsupportedBatchNormError",
    "convert_bn",
    "converted_layers",
    "learnable_class",
    "plan_conversion",
    "revert_bn",
    "statistics_in_graph",
    "tracking_tensors",
    "undone_layers",
    "warn_if_undone",
]
