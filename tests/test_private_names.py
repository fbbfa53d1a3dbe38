"""Names that other libraries do not promise to keep: all listed, guarded, and tried without."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import dd_plugin
import dd_plugin.private
from dd_plugin.bilevel.copying import copy_model
from dd_plugin.bn import convert_bn
from dd_plugin.private import TracingUnavailableError, make_fx_of_fakes, operations
from tests.private_names import OVERRIDES, uses_in, uses_of, without_overrides
from tests.repository import ROOT

# What `dd_plugin.private` uses; no other file uses any.
EXPECTED = {
    '"_apply"',
    '"_attn_implementation"',
    '"_backward_hooks"',
    '"_buffers"',
    '"_check_input_dim"',
    '"_checkpoint_impl"',
    '"_commit_hash"',
    '"_current_level"',
    '"_efficientzerotensor.default"',
    '"_forward_pre_hooks"',
    '"_forward_pre_hooks_with_kwargs"',
    '"_in_spec"',
    '"_load_from_state_dict"',
    '"_modules"',
    '"_non_persistent_buffers_set"',
    '"_orig_mod"',
    '"_parameters"',
    '"_post_accumulate_grad_hooks"',
    '"_save_to_state_dict"',
    '"_schema"',
    '"_set_grad_enabled"',
    '"_to_copy.default"',
    '"_type"',
    '"_unsafe_view.default"',
    '"_weight_norm"',
    "._buffers",
    "._commit_hash",
    "._modules",
    "._non_persistent_buffers_set",
    "_allow_non_fake_inputs=",
    "datasets.Features._type",
    "module timm.layers",
    "module torch._dynamo.trace_rules",
    "module torch._dynamo.variables.builder",
    "module torch.nn.utils.weight_norm",
    "module torchvision.ops.misc",
    "module transformers.pytorch_utils",
    "torch.Tensor._backward_hooks",
    "torch.Tensor._post_accumulate_grad_hooks",
    "torch.Tensor._version",
    "torch._C",
    "torch._C._functions",
    "torch._C._functorch.CGradInterpreterPtr",
    "torch._C._functorch.get_inplace_requires_grad_allowed",
    "torch._C._functorch.get_interpreter_stack",
    "torch._C._functorch.is_functorch_wrapped_tensor",
    "torch._C._functorch.peek_interpreter_stack",
    "torch._C._is_fwd_grad_enabled",
    "torch._C._nn",
    "torch._C._set_fwd_grad_enabled",
    "torch._C._set_grad_enabled",
    "torch._decomp.decompositions_for_jvp",
    "torch._dynamo.OptimizedModule._orig_mod",
    "torch._dynamo.trace_rules",
    "torch._dynamo.variables.builder",
    "torch._foreach_copy_",
    "torch._inductor.list_options",
    "torch._inductor.utils.clear_caches",
    "torch._ops.OpOverload._schema",
    "torch._weight_norm",
    "torch.autograd.forward_ad._current_level",
    "torch.fx.GraphModule._in_spec",
    "torch.nn.BatchNorm2d._check_input_dim",
    "torch.nn.Module._forward_pre_hooks",
    "torch.nn.Module._forward_pre_hooks_with_kwargs",
    "torch.nn.utils.weight_norm._weight_norm",
    "torch.ops.aten._efficientzerotensor",
    "torch.ops.aten._to_copy",
    "torch.ops.aten._unsafe_view",
    "torch.ops.mkldnn._linear_pointwise.default",
    "torch.utils._python_dispatch.TorchDispatchMode",
    "torch.utils.checkpoint._checkpoint_impl",
    "transformers.PreTrainedConfig._attn_implementation",
    "transformers.PreTrainedConfig._commit_hash",
}
ADVICE = """\
{file} uses {name}, which its library does not promise to keep. Use a public name. If there is none:
look it up in dd_plugin/private.py, behind a guard, with an entry in NAMES that says what happens
without it; then add it to EXPECTED, and what is to happen to WITHOUT, of
tests/test_private_names.py. A method that overrides one of torch's goes into OVERRIDES of
tests/private_names.py, with a reason."""

OPTIONAL = dd_plugin.private.NAMES
# These cost the tracer; without the others, tracing goes on.
WITHOUT_TRACING = {
    "torch.fx.experimental.proxy_tensor.make_fx",
    "torch._ops.OpOverload._schema",
}
# Without these forward mode ignores `no_grad`, so it is not used.
WITHOUT_FORWARD_MODE = {
    "torch._C._set_grad_enabled",
    "torch._C._set_fwd_grad_enabled",
    "torch._C._is_fwd_grad_enabled",
}
# Without these torch refuses a model that marks an activation, and says so.
WITHOUT_MARKS = {
    "torch._C._functorch.peek_interpreter_stack",
    "torch._C._functorch.get_inplace_requires_grad_allowed",
}


def test_every_private_name_is_listed():
    uses = uses_of(Path(dd_plugin.__file__).parent)
    for file, names in uses.items():
        expected = EXPECTED if file == "private.py" else set()
        for name in sorted(without_overrides(file, names) - expected):
            pytest.fail(ADVICE.format(file=file, name=name))
    gone = EXPECTED - uses["private.py"]
    assert not gone, f"no longer used; take out of EXPECTED: {sorted(gone)}"
    unused = {f: {f"override {n}" for n in names} - uses[f] for f, names in OVERRIDES.items()}
    assert not any(unused.values()), f"no longer there; take out of OVERRIDES: {unused}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch\ntorch._dynamo.reset()", "torch._dynamo.reset"),
        ("import torch._inductor.config as c", "torch._inductor.config"),
        ("from timm.models import _registry", "timm.models._registry"),
        ("from timm.models._registry import f", "timm.models._registry.f"),
        ("import torch\naten = torch.ops.aten\naten._to_copy.default", "torch.ops.aten._to_copy"),
        ("from torch.nn import functional as F\nF._pad = 1", "torch.nn.functional._pad"),
        ("def f(model):\n    return model._hf_hook", "._hf_hook"),
        ("def f(model):\n    model._hf_hook = 1", "._hf_hook"),
        ("def f(model):\n    return getattr(model, '_hf_hook')", '"_hf_hook"'),
        ("names = ('_hf_hook',)", '"_hf_hook"'),
        ("def f(model):\n    setattr(model, '_buffers', {})", '"_buffers"'),
        ("import sys\nsys.modules['accelerate.hooks']", "module accelerate.hooks"),
        ("import sys\nsys.modules.get('datasets.x')", "module datasets.x"),
        ("from importlib import import_module\nimport_module('timm._x')", "timm._x"),
        ("class A:\n    def _apply(self, fn): ...", "override _apply"),
        ("class A:\n    def _apply(self, fn): self.a._apply(fn)", "._apply"),
        ("class A:\n    def f(self): super()._apply(self)", "._apply"),
        ("class A:\n    def _apply(self): super()._save_to_state_dict()", "._save_to_state_dict"),
        ("class A(g(_private_option=1)): ...", "_private_option="),
        ("def _apply(fn): ...", "def _apply"),
        ("def f(g):\n    g(_private_option=1)", "_private_option="),
        ("lookup('huggingface_hub.utils._x')", "huggingface_hub.utils._x"),
    ],
)
def test_the_list_would_see(source, name):
    assert any(found.startswith(name) for found in uses_in(source))


def test_an_override_calls_what_it_overrides():
    source = "class A:\n    def _apply(self, fn): return super()._apply(fn)"
    assert uses_in(source) == {"override _apply"}


def test_the_list_leaves_out_what_is_public_or_of_the_package():
    source = """
        import torch
        import _io
        from torch.nn import functional as F

        class A:
            def __init__(self): self._mine = torch.nn.Module().__class__

            def _own(self): return self._mine, __name__, F.relu

        def f(a, state): return a._own(), state._replace(x=1), "_not a name", "a_b"
    """
    assert uses_in(textwrap.dedent(source)) == set()


# --- without them --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes():
    result = subprocess.run(
        [sys.executable, "-m", "tests.without_names", "nothing", *OPTIONAL],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", ["nothing", *OPTIONAL])
def test_what_can_go_on_goes_on_without(outcomes, name):
    outcome = outcomes[name]
    assert "error" not in outcome, outcome["error"]
    assert outcome["layer"] < 1e-12
    assert outcome["eager"] < 1e-12
    assert outcome["trace"] < 1e-12
    method = "reverse" if name in WITHOUT_FORWARD_MODE else "mixed"
    assert outcome["eager method"] == outcome["trace method"] == method
    assert outcome["eager warnings"] == []
    if name in WITHOUT_MARKS:
        assert "requires_grad_()" in outcome["marks"]
    else:
        assert "marks" not in outcome
    if name in WITHOUT_TRACING:
        attribute = name.rpartition(".")[2]
        (said,) = outcome["trace warnings"]
        assert f"has no {attribute}" in said.replace("OpOverload.", "")
        assert "it runs eagerly from here on" in said
    else:
        assert outcome["trace warnings"] == []


def test_every_name_says_what_is_lost():
    for name, cost in {**OPTIONAL, **dd_plugin.private.NAMES_OF_OTHERS}.items():
        assert cost.endswith(".")
        assert len(cost.split()) > 5, name
    assert set(OPTIONAL) >= WITHOUT_TRACING


PROTOCOL = ["_parameters", "_non_persistent_buffers_set", "_save_to_state_dict", "_apply"]


@pytest.fixture(scope="module")
def refusals():
    """What the import says without a name of the protocol of modules, each in a fork."""
    code = """
        import os, sys
        import torch
        from tests.without_names import hide
        for name in sys.argv[1:]:
            process = os.fork()
            if not process:
                hide(torch.nn.Module, name)
                try:
                    import dd_plugin.bn
                except ImportError as error:
                    print(name, error, flush=True)
                os._exit(0)
            os.waitpid(process, 0)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *PROTOCOL],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return dict(line.split(" ", 1) for line in result.stdout.splitlines())


@pytest.mark.parametrize("name", PROTOCOL)
def test_a_torch_without_the_protocol_of_modules_is_refused(refusals, name):
    assert f"has no torch.nn.Module.{name}, which dd_plugin needs" in refusals[name]
    assert "install an older torch, or a newer dd_plugin" in refusals[name]


def test_a_layer_without_torchs_check_of_dimensions_still_normalizes(monkeypatch):
    monkeypatch.delattr(nn.BatchNorm2d, "_check_input_dim")
    monkeypatch.setattr(nn.modules.batchnorm._NormBase, "_check_input_dim", None)
    layer = convert_bn(nn.BatchNorm2d(3))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(layer(x).mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)


def test_operations_that_are_gone_are_left_out():
    known = operations("add.Tensor", "never_was.default", "add.NeverWas")
    assert known == {torch.ops.aten.add.Tensor}


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch):
    options = {"layout_optimization": False, "never_was": 1}
    private = dd_plugin.private
    assert private.known_inductor_options(options) == {"layout_optimization": False}
    monkeypatch.setattr(private, "lookup", lambda path: None)
    assert private.known_inductor_options(options) == options


def test_an_option_of_the_tracer_that_is_gone_is_left_out(monkeypatch):
    native = dd_plugin.private._make_fx

    def make_fx(f, tracing_mode="real"):
        return native(f, tracing_mode=tracing_mode)

    monkeypatch.setattr(dd_plugin.private, "_make_fx", make_fx)
    graph = make_fx_of_fakes(lambda x: [x[0] * 2])([torch.ones(2)])
    assert torch.equal(graph([torch.ones(2)])[0], torch.full((2,), 2.0))
    monkeypatch.setattr(dd_plugin.private, "_make_fx", None)
    with pytest.raises(TracingUnavailableError, match="has no make_fx, which tracing needs"):
        make_fx_of_fakes(lambda x: x)


def test_a_copy_needs_no_hooks():
    class Plain(nn.Linear):
        def __getattribute__(self, name):
            if name == "_forward_pre_hooks":
                raise AttributeError(name)
            return super().__getattribute__(name)

    assert copy_model(Plain(2, 2)).weight.shape == (2, 2)
