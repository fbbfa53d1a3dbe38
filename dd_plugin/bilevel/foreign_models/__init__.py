"""What makes models differentiable twice that were not written for it.

Below `functional`, which runs a model so. `second_order` is the context that does it; `formulas`
and `grid_sample` have the derivatives that torch lacks, `batchnorm` the moving averages of stock
layers, `replay` the random numbers, `no_grad` what forward mode has to be told. `inspection` finds
what stands in the way, and `report` says it. Names are replaced by `patching`.
"""
