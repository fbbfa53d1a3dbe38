"""Networks: frozen backbones, their features, and the heads that are trained on these.

Above `dd_plugin.data` and below `dd_plugin.evaluation`.
"""
