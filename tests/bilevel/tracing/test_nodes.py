"""New nodes of a traced graph know what they give."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from dd_plugin.bilevel.tracing.nodes import call_node


def test_a_new_node_has_the_value_that_it_will_give():
    graph = make_fx(lambda x: [x + 1], tracing_mode="fake")(torch.ones(2, 3))
    output = next(iter(graph.graph.find_nodes(op="output")))
    (result,) = output.all_input_nodes
    with graph.graph.inserting_before(output):
        turned = call_node(graph.graph, torch.ops.aten.t.default, result)
    output.args = ([turned],)
    graph.recompile()
    assert turned.meta["val"].shape == graph(torch.ones(2, 3))[0].shape == (3, 2)
