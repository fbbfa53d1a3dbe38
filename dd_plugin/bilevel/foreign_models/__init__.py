"""Second derivatives for models that were not written for them.

Below `functional`. `second_order` is the context in which a model can be differentiated twice:
`formulas` and `grid_sample` have the derivatives that torch lacks, `batchnorm` the moving averages
of stock layers, `replay` and `draws` the random numbers, `no_grad` constants for forward mode.
`inspection` finds what stands in the way, `report` lists it, and `patching` replaces names.
"""
