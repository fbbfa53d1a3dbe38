"""The bilevel engine. So far: second derivatives through ordinary models.

`second_order` is the context to differentiate in, `second_order_needs` says what of a model it
helps, `missing_rule_operation` reads which operation an error of torch is about. Knows tensors and
modules; images, data sets and processes are other parts' business.
"""

from dd_plugin.bilevel.second_order import (
    SecondOrderNeed,
    missing_rule_operation,
    second_order,
    second_order_needs,
)

__all__ = ["SecondOrderNeed", "missing_rule_operation", "second_order", "second_order_needs"]
