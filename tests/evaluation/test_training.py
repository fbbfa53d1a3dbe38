"""Training on a set: any ordinary network comes out whole, or with an error that says why not."""

import ast
import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import dd_plugin
from dd_plugin import DistilledDataset
from dd_plugin.data import RealData
from dd_plugin.evaluation import DivergedError, ordinary
from dd_plugin.evaluation.training import OtherArchitectureWarning
from tests.distiller.toy import toy_dataset
from tests.hub.toy import change_record, change_tensors, write_toy

PROTOCOLS = ["recipe", "standard"]
FEW = 5


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """As on real images, and not for long."""
    monkeypatch.setattr(ordinary, "MOST_STEPS", FEW)


@pytest.fixture
def distilled(tmp_path):
    """A set without BatchNorm, for any network."""

    def change(record):
        record["recipe"] |= {"model": None, "model_args": {}, "statistics": None}

    change_record(write_toy(tmp_path), change)
    return DistilledDataset.from_pretrained(tmp_path)


def trained(distilled, network, protocol, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtherArchitectureWarning)
        return distilled.fit(network, protocol=protocol, **options)


# --- buffers of a network's own that training moves ----------------------------------------------


class Counting(nn.Module):
    """Counts its training steps, and keeps a moving average of what it has seen."""

    def __init__(self, dtype=torch.int64, inplace=False):
        super().__init__()
        self.linear = nn.Linear(64, 2)
        self.inplace = inplace
        self.register_buffer("steps", torch.zeros((), dtype=dtype))
        self.register_buffer("average", torch.zeros(64))

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            mean = x.detach().mean(0)
            if self.inplace:
                self.steps += 1
                self.average.mul_(0.9).add_(mean, alpha=0.1)
            else:
                self.steps = self.steps + 1
                self.average = 0.9 * self.average + 0.1 * mean
        return self.linear(x - self.average)


class Moved(nn.Module):
    """A moving buffer below another module, beside BatchNorm."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        self.head = Counting()

    def forward(self, x):
        return self.head(self.body(x).mean(1, keepdim=True).repeat(1, 64, 1, 1)[:, :, 0, 0])


MOVING = {
    "spectral norm": lambda: nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(64, 2))),
    "spectral norm of a convolution": lambda: nn.Sequential(
        spectral_norm(nn.Conv2d(1, 2, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)
    ),
    "weight norm": lambda: nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(64, 2))),
    "a counter": Counting,
    "a counter of floats": lambda: Counting(torch.float32),
    "a counter in place": lambda: Counting(inplace=True),
    "inside": Moved,
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", sorted(MOVING))
def test_a_network_with_moving_buffers_is_trained(distilled, kind, protocol):
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    network = MOVING[kind]()
    torch.random.set_rng_state(state)
    before = copy.deepcopy(network.state_dict())
    first, again = (trained(distilled, network, protocol) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(first) is type(network)
    assert not first.training
    found = first.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])  # what is passed in stays
        assert torch.equal(again.state_dict()[name], found[name])
    moved = [name for name in found if not torch.equal(found[name], before[name])]
    assert moved
    if "counter" in kind:
        assert int(found["steps"]) == (3 if protocol == "recipe" else FEW)
        assert "average" in moved


def test_training_by_the_recipe_is_plain_training_with_moving_buffers(distilled):
    """SGD with the three step sizes of the set, in full batches, buffers moved once a step."""
    network = Counting(inplace=True)
    own = copy.deepcopy(network).train()
    images = distilled._synthetic.transform(distilled.images)
    for size in distilled.step_sizes:
        loss = nn.functional.cross_entropy(own(images), distilled.labels)
        for p, g in zip(
            own.parameters(), torch.autograd.grad(loss, list(own.parameters())), strict=True
        ):
            p.data -= size * g
    found = distilled.fit(network, protocol="recipe").state_dict()
    for name, value in own.state_dict().items():
        torch.testing.assert_close(found[name], value)


# --- `train` that returns nothing ----------------------------------------------------------------


def silent(kind):
    """A class whose `train` (and so `eval`) sets the mode and returns nothing."""

    class Silent(kind):
        def train(self, mode=True):
            super().train(mode)

    return Silent


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm2d(2)], ids=["plain", "norm"])
def test_a_network_whose_train_returns_nothing(distilled, protocol, norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), norm(), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)]
    plain = nn.Sequential(*layers)
    network = silent(nn.Sequential)(*copy.deepcopy(layers))
    first, second = (trained(distilled, made, protocol) for made in (plain, network))
    assert isinstance(second, nn.Sequential)
    assert not any(module.training for module in second.modules())
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_a_set_that_learned_nothing_about_batchnorm_trains_any_network_as_usual(distilled):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", OtherArchitectureWarning)
        model = distilled.fit(nn.Sequential(*layers), protocol="recipe", seed=1)
    # The moving average of stock layers, and no statistics taken afresh.
    assert int(model[1].num_batches_tracked) == distilled.synthetic("exact").recipe.steps


def test_a_part_whose_train_returns_nothing_and_a_name(distilled, monkeypatch):
    def made(*args, **options):
        return nn.Sequential(nn.Flatten(), silent(nn.Linear)(64, 2))

    network = trained(distilled, made, "recipe")
    assert isinstance(network, nn.Module)
    monkeypatch.setattr("timm.create_model", lambda *a, **o: silent(nn.Sequential)(*made()))
    assert isinstance(distilled.fit("timm/resnet18"), nn.Module)


# --- what is not trained -------------------------------------------------------------------------


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


@pytest.mark.parametrize("size", [1e20, 1e30, 3e38])
def test_a_recipe_that_diverges_is_an_error(tmp_path, size):
    def change(record):
        record["recipe"] |= {"model": None, "model_args": {}, "statistics": None, "steps": 30}

    change_record(write_toy(tmp_path), change)
    change_tensors(tmp_path, step_sizes=torch.tensor(size))
    distilled = DistilledDataset.from_pretrained(tmp_path)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    with pytest.raises(DivergedError, match=r"training diverged: .* has step sizes up to"):
        distilled.fit(network)
    with pytest.raises(DivergedError):
        distilled.evaluate(network, real_images(distilled), networks=2)
    # And as on real images it is not.
    distilled.fit(network, protocol="standard")


def real_images(distilled):
    data = RealData.from_dataset(toy_dataset(8, 0))
    data.class_names = distilled.class_names
    return data


class Broken(nn.Module):
    """A division by zero that only training comes to."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, x):
        x = self.linear(x.flatten(1))
        return (x * 0).sqrt() + x if self.training else x


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_network_that_becomes_nan_is_an_error(distilled, protocol):
    with pytest.raises(DivergedError, match=r"training diverged: 'linear\.weight' and 1 more of"):
        distilled.fit(Broken(), protocol=protocol)


class Masked(nn.Module):
    """Infinite values that were there before, as masks of attention have."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 2)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x):
        return self.linear(x.flatten(1)) + self.mask.exp()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_infinite_masks_are_no_divergence(distilled, protocol):
    assert bool(distilled.fit(Masked(), protocol=protocol).mask[1].isinf())


# --- networks that do not fit --------------------------------------------------------------------


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.weight, self.error = nn.Parameter(torch.ones(1)), error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(60, 2)), "does not take the images of this se"),
        (nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2)), "does not take the im"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), r"\(N, 2\), one for each .* \(2, 3\)"),
        (nn.Conv2d(1, 2, 3), r"must return logits \(N, 2\)"),
        (Raises(KeyError("x")), "KeyError: 'x'"),
        (Raises(ZeroDivisionError("by zero")), "by zero"),
        (Raises(AttributeError("no such")), "no such"),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_network_that_does_not_fit_is_told_before_it_is_trained(
    distilled, network, message, protocol
):
    with pytest.raises(ValueError, match=message):
        distilled.fit(network, protocol=protocol)


def test_memory_that_runs_out_comes_out_as_it_is(distilled):
    with pytest.raises(torch.OutOfMemoryError):
        distilled.fit(Raises(torch.OutOfMemoryError("no room")))


def test_nobody_relies_on_what_train_and_eval_return():
    """In the whole package: they are called for their effect."""
    own = {"distiller"}  # whose `train` is the trainer's
    for path in sorted(Path(dd_plugin.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        statements = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        used = [
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("train", "eval")
            and getattr(node.func.value, "id", "") not in own
            and id(node) not in statements
        ]
        assert not used, path


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        ("sgd", {"momentum": 1e300}),
        ("sgd", {"momentum": -1e39, "nesterov": True}),
        ("sgd", {"weight_decay": 1e300}),
        ("adam", {"eps": -1e300}),
        ("adam", {"betas": [1e300, 0]}),
        ("adamw", {"weight_decay": 1e39}),
    ],
)
def test_a_recipe_of_huge_numbers_trains_or_says_that_it_diverged(tmp_path, optimizer, arguments):
    change = {"optimizer": optimizer, "optimizer_args": arguments}
    change_record(write_toy(tmp_path), lambda record: record["recipe"].update(change))
    distilled = DistilledDataset.from_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtherArchitectureWarning)
        try:
            network = distilled.fit(linear())
        except DivergedError:
            return
    assert all(bool(p.isfinite().all()) for p in network.parameters())
