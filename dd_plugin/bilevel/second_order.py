"""The path under which `second_order` was published first."""

from dd_plugin.bilevel.foreign_models.second_order import second_order, second_order_needs

__all__ = ["second_order", "second_order_needs"]
