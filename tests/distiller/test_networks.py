"""`dd_plugin.distiller.networks`: which network an inner run starts from, and what is refused."""

import random
import re

import numpy as np
import pytest
import torch
from torch import nn

from dd_plugin.bilevel import adam, hypergradient, sgd
from dd_plugin.bn import converted_layers
from dd_plugin.distiller.networks import Networks
from dd_plugin.models import ModelLoadError

SHAPE = (2, 4, 4)
CLASSES = 3


def make(norm=True):
    """Five tensors of weights; ``norm`` adds a BatchNorm layer."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


class Handmade(nn.Module):
    """Draws its weight by other means than its layers do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 4)
        self.head = nn.Linear(4, CLASSES)
        with torch.no_grad():
            self.head.weight.normal_()

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))


def networks(model_init=make, **options):
    optimizer = options.pop("optimizer", None) or sgd()
    options = {"num_classes": CLASSES, "shape": SHAPE, **options}
    made = Networks(model_init, **options)
    made.problem(optimizer)
    return made


def flat(state):
    return torch.cat([t.flatten() for t in state.parameters.values()])


def equal(a, b):
    return torch.equal(flat(a), flat(b))


def moved(state, by=1.0):
    return state._replace(parameters={n: t + by for n, t in state.parameters.items()})


# Where networks come from.


def test_module_is_one_fixed_start():
    model = make()
    runs = networks(model)
    assert (runs.mode, runs.statistics) == ("fixed", "tracked")
    first = runs.take(0, 0)
    assert equal(first, runs.take(7, 3))
    assert torch.equal(first.parameters["0.weight"], model[0].weight)
    # The user's own module is neither converted nor shared.
    assert type(model[1]) is nn.BatchNorm2d
    with torch.no_grad():
        model[0].weight.zero_()
    assert equal(first, runs.take(0, 0))


@pytest.mark.parametrize("mode", ["fixed", "random", "pool"])
def test_networks_are_functions_of_seed_step_and_index(mode):
    one = networks(mode=mode)
    torch.manual_seed(99)
    other = networks(mode=mode)
    for step, index in [(5, 1), (0, 0), (5, 0)]:
        assert equal(one.take(step, index), other.take(step, index))
    # Not of what was asked before.
    assert equal(networks(mode=mode).take(5, 1), one.take(5, 1))
    assert not equal(networks(mode=mode, seed=1).take(0, 0), one.take(0, 0))


def test_random_networks_differ_by_step_and_by_index():
    runs = networks()
    assert (runs.mode, runs.statistics) == ("random", "tracked")
    seen = [flat(runs.take(step, index)) for step in range(3) for index in range(3)]
    assert len(torch.unique(torch.stack(seen), dim=0)) == 9


def test_random_networks_have_the_distribution_of_the_model():
    # A weight of the linear layer is uniform in ±1/sqrt(16): standard deviation 1/(4 sqrt 3), over
    # 40 * 48 values known to 1.6 %.
    runs = networks()
    drawn = torch.cat([runs.take(step, 0).parameters["4.weight"].flatten() for step in range(40)])
    assert drawn.std().item() == pytest.approx(1 / (4 * 3**0.5), rel=0.08)


def test_generators_of_the_caller_are_left_alone():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - it is the global one that is looked at

    def drawing():
        random.random()
        np.random.rand()  # noqa: NPY002
        return make()

    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])  # noqa: NPY002
    runs = networks(drawing)
    runs.take(0, 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])  # noqa: NPY002


def test_factory_that_draws_with_numpy_and_python():
    def drawing():
        model = make(norm=False)
        with torch.no_grad():
            model[4].bias[0] = random.random()
            model[4].bias[1] = float(np.random.rand())  # noqa: NPY002
        return model

    first, again = networks(drawing), networks(drawing)
    assert equal(first.take(3, 1), again.take(3, 1))
    assert not first.redraws_in_place


@pytest.mark.parametrize(("model_init", "in_place"), [(make, True), (Handmade, False)])
def test_redrawing_in_place_only_where_it_is_making_anew(model_init, in_place):
    runs = networks(model_init)
    assert runs.redraws_in_place is in_place
    drawn = runs.take(4, 2)
    runs._factory._scratch = None
    assert equal(drawn, runs.take(4, 2))


def test_state_is_a_copy_of_the_redrawn_model():
    runs = networks()
    first = runs.take(0, 0)
    before = flat(first).clone()
    runs.take(1, 0)
    assert torch.equal(before, flat(first))


def test_by_name_classes_and_shape_are_filled_in():
    runs = Networks(
        "timm/dd_convnet",
        num_classes=4,
        shape=(1, 8, 12),
        model_args={"width": 4, "depth": 2, "norm_layer": "batchnorm2d"},
    )
    runs.problem(sgd())
    assert runs.redraws_in_place
    assert runs.take(0, 0).parameters["head.weight"].shape == (4, 4 * 2 * 3)
    assert len(runs.constants()) == 6
    with pytest.raises(ModelLoadError, match="takes no argument 'wdith'"):
        Networks("timm/dd_convnet", num_classes=4, shape=(3, 8, 8), model_args={"wdith": 4})


def test_dtype():
    runs = networks(dtype=torch.float64)
    state = runs.take(0, 0)
    assert {t.dtype for t in state.parameters.values()} == {torch.float64}
    assert state.counters["1.num_batches_tracked"].dtype == torch.int64


# The problem and what is learned.


def test_problem_is_made_once():
    runs = Networks(make, num_classes=CLASSES, shape=SHAPE)
    with pytest.raises(RuntimeError, match="call `problem` first"):
        runs.take(0, 0)
    optimizer = adam()
    problem = runs.problem(optimizer, outer_training=True)
    assert runs.problem() is problem
    assert runs.problem(optimizer, outer_training=True) is problem
    with pytest.raises(ValueError, match="another optimizer or other options"):
        runs.problem(sgd())


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"statistics": "learned"}, {"1.running_mean", "1.running_var"}),
        ({"mode": "fixed"}, {"1.momentum_shift", "1.mean_correction", "1.var_correction"}),
        ({}, {"1.momentum_shift", "1.mean_correction", "1.var_correction"}),
        ({"statistics": "frozen"}, set()),
        ({"statistics": "learned", "train_with": "running"}, set()),
    ],
)
def test_constants_are_what_the_policy_learns(options, names):
    runs = networks(**options)
    assert set(runs.constants()) == names
    held = runs.problem().model.constants
    assert all(held[name] is tensor for name, tensor in runs.constants().items())


def test_model_without_batch_norm():
    runs = networks(lambda: make(norm=False))
    assert runs.constants() == {}
    assert runs.take(0, 0).statistics == {}


@pytest.mark.parametrize("mode", ["fixed", "random", "pool"])
def test_states_run_in_the_engine(mode):
    runs = networks(mode=mode, dtype=torch.float64, optimizer=adam())
    images = torch.rand(3, *SHAPE, dtype=torch.float64)
    labels = torch.arange(3)
    state = runs.take(0, 0)
    result = hypergradient(
        runs.problem(),
        [(images, labels)] * 2,
        (images, labels),
        step_size=0.1,
        initial=state,
        constants=runs.constants(),
    )
    assert result.finite
    assert set(runs.constants()) <= set(result.constants)
    assert runs.give_back(0, result.final, 2) is (mode == "pool")


def test_buffers_that_training_moves_are_part_of_the_state():
    def spectral():
        model = make(norm=False)
        nn.utils.parametrizations.spectral_norm(model[4])
        return model

    runs = networks(spectral, dtype=torch.float64)
    assert any("_u" in name for name in runs.take(0, 0).statistics)


# The pool.


def pool(**options):
    return networks(mode="pool", **{"pool_size": 2, "max_age": 10, **options})


def test_pool_keeps_what_is_given_back_until_it_is_old():
    runs = pool(pool_size=1)
    first = runs.take(0, 0)
    assert runs.age(0) == 0
    assert runs.give_back(0, moved(first), 6)
    second = runs.take(1, 0)
    assert torch.equal(flat(second), flat(first) + 1)
    assert runs.age(0) == 6
    runs.give_back(0, moved(second), 10)
    third = runs.take(2, 0)
    assert runs.age(0) == 0
    assert not equal(third, moved(second))
    assert not equal(third, first)


def test_pool_uses_all_its_members():
    runs = pool(pool_size=3)
    seen = set()
    for step in range(30):
        state = runs.take(step, 0)
        seen.add(tuple(flat(state).tolist()))
        runs.give_back(0, state, 1)
    assert len(seen) == 3


def test_indices_have_their_own_members_so_processes_agree_with_one():
    together, first, second = pool(), pool(), pool()
    for step in range(6):
        for index, alone in enumerate((first, second)):
            state = together.take(step, index)
            assert equal(state, alone.take(step, index))
            together.give_back(index, moved(state), 1 + step)
            alone.give_back(index, moved(state), 1 + step)


def test_state_that_is_not_finite_is_not_kept():
    runs = pool(pool_size=1)
    first = runs.take(0, 0)
    assert not runs.give_back(0, moved(first, float("nan")), 3)
    state = runs.take(1, 0)
    assert runs.age(0) == 0
    assert torch.isfinite(flat(state)).all()


def test_giving_back_what_was_not_taken():
    runs = pool()
    state = runs.take(0, 0)
    with pytest.raises(ValueError, match="no network was taken for index 1"):
        runs.give_back(1, state, 1)


def test_pool_of_one_module_starts_from_its_weights():
    model = make()
    runs = networks(model, mode="pool", pool_size=1)
    assert runs.statistics == "tracked"
    assert torch.equal(runs.take(0, 0).parameters["0.weight"], model[0].weight)


# Checkpoints.


@pytest.mark.parametrize("optimizer", [sgd(), sgd(0.9), adam()])
def test_resumed_pool_goes_on_as_if_nothing_had_happened(optimizer):
    def go(runs, steps):
        for step in steps:
            for index in range(2):
                state = runs.take(step, index)
                images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(step))
                batch = (images, torch.arange(3))
                result = hypergradient(
                    runs.problem(), [batch], batch, step_size=0.1, initial=state, method="autograd"
                )
                runs.give_back(index, result.final, runs.age(index) + 4)

    through, stopped = pool(optimizer=optimizer), pool(optimizer=optimizer)
    go(through, range(6))
    go(stopped, range(3))
    saved = stopped.state_dict()
    assert {type(value) for value in saved.values()} <= {torch.Tensor, int}
    resumed = pool(optimizer=optimizer)
    resumed.load_state_dict(saved)
    go(resumed, range(3, 6))
    expected, found = through.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if isinstance(value, int):
            assert value == found[name]
        else:
            assert torch.equal(value, found[name]), name


def test_fixed_start_is_saved_with_the_run():
    first = networks(make())
    other = networks(make())
    assert not equal(first.take(0, 0), other.take(0, 0))
    other.load_state_dict(first.state_dict())
    assert equal(first.take(0, 0), other.take(0, 0))
    assert torch.equal(
        other.new_model(0).get_parameter("0.weight"), first.take(0, 0).parameters["0.weight"]
    )


def test_random_networks_have_nothing_to_save():
    assert networks().state_dict() == {}


def test_state_of_another_run_is_refused():
    runs = pool(optimizer=adam())
    runs.take(0, 0)
    saved = runs.state_dict()
    with pytest.raises(ValueError, match=r"must have .*0\.weight.* of another model or inner opt"):
        pool(optimizer=adam()).load_state_dict(
            {name: value for name, value in saved.items() if "0.weight" not in name}
        )
    with pytest.raises(ValueError, match=r"these do not, such as .* of another model or inner"):
        pool(optimizer=sgd()).load_state_dict(saved)
    with pytest.raises(ValueError, match="those of mode=\"pool\", these have mode='random'"):
        networks(optimizer=adam()).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"no whole number pool\.0"):
        pool(optimizer=adam()).load_state_dict(
            {name: value for name, value in saved.items() if not name.endswith("age")}
        )


# Ordinary models of the same kind.


def test_new_model_is_converted_and_has_what_was_learned():
    runs = networks()
    learned = {name: torch.full_like(t, 0.25) for name, t in runs.constants().items()}
    model = runs.new_model(3, learned)
    assert [layer.statistics for layer in converted_layers(model).values()] == ["tracked"]
    assert model[1].mean_correction == 0.25
    assert torch.equal(model[0].weight, runs.new_model(3)[0].weight)
    assert not torch.equal(model[0].weight, runs.new_model(4)[0].weight)
    with pytest.raises(ValueError, match="which these networks do not have"):
        runs.new_model(3, {"nothing": torch.zeros(())})


# What is refused, before any work.


class Wrapped(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.scale = nn.Parameter(torch.rand(1))

    def forward(self, x):
        return self.backbone(x) * self.scale


CAPTURED = make(norm=False)


def seeded():
    torch.manual_seed(0)
    return make(norm=False)


def partly_frozen():
    model = make(norm=False)
    model[0].requires_grad_(False)
    return model


def of_any_width():
    width = int(torch.randint(4, 1000, ()))
    return nn.Sequential(nn.Flatten(), nn.Linear(32, width), nn.Linear(width, CLASSES))


@pytest.mark.parametrize(
    ("model_init", "text"),
    [
        (lambda: CAPTURED, "a new network each time .* the same one twice"),
        (lambda: Wrapped(CAPTURED), "two that share parameters"),
        (seeded, "two have the same weights"),
        (partly_frozen, "'0.weight' is not trained, yet it differs"),
        (of_any_width, "one architecture, but '1.weight' has shape"),
    ],
)
def test_factories_that_make_no_fresh_networks(model_init, text):
    with pytest.raises(ValueError, match=text):
        networks(model_init)


def test_shared_parts_are_fine_for_a_fixed_start():
    assert networks(lambda: make(norm=False), mode="fixed").take(0, 0)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, CLASSES)),
            "cannot take images of 2x4x4 .* first convolution, '0', takes 3 channel.* have 2",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(99, CLASSES)), "cannot take images of 2x4x4"),
        (nn.Sequential(nn.Flatten(), nn.Linear(32, 5)), "each of the 3 classes .* got 5"),
        (nn.Conv2d(2, CLASSES, 3), r"must return logits \(N, 3\), got shape \(2, 3, 2, 2\)"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(32, CLASSES), nn.Softmax(1)),
            "must return logits, got probabilities",
        ),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)), "shapes are not known yet"),
        (nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).requires_grad_(False), "no trainable"),
    ],
)
def test_models_that_do_not_fit_the_data(model, text):
    with pytest.raises(ValueError, match=text):
        networks(model)


def test_what_is_no_classifier_at_all():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, CLASSES)

        def forward(self, x):
            return [self.layer(x.flatten(1))]

    with pytest.raises(TypeError, match="must return a tensor or an output with `logits`"):
        networks(Pair())
    with pytest.raises(TypeError, match=r"must make an nn\.Module, got int"):
        networks(lambda: 3)
    with pytest.raises(TypeError, match="a function that makes one or a name, got int"):
        networks(3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "radnom"}, '`mode` must be "fixed", "random" or "pool"'),
        ({"mode": "random", "model_init": make()}, "got one module; pass a function"),
        ({"pool_size": 0}, "at least 1, got 0 and 200"),
        ({"model_args": {"width": 3}}, "unless `model_init` is a name, got ['width']"),
        ({"statistics": "lerned"}, "`statistics` must be"),
    ],
)
def test_wrong_arguments(options, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        networks(**options)


def test_a_network_whose_train_returns_nothing_is_taken():
    class Detector(torch.nn.Sequential):
        def train(self, mode=True):
            super().train(mode)

    def make():
        return Detector(torch.nn.Flatten(), torch.nn.Linear(64, 3))

    networks = Networks(make, num_classes=3, shape=(1, 8, 8))
    assert networks.mode == "random"
