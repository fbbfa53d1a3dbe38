import pytest
import torch

from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.data.transforms import Normalization
from dd_plugin.seeds import InnerPurpose, mix


def make(count=6, classes=3, step_sizes=None, soft=False, **options):
    recipe = Recipe(shape=(1, 4, 4), class_names=tuple("abc"[:classes]), **{"steps": 4, **options})
    images = torch.rand(count, 1, 4, 4, dtype=torch.float64)
    sizes = torch.full((recipe.steps,), 0.1, dtype=torch.float64)
    return SyntheticSet(
        recipe,
        Pixels(images),
        torch.arange(count) % classes,
        sizes if step_sizes is None else step_sizes,
        transform=Normalization([0.5], [0.25]),
        soft_labels=soft,
    )


def test_a_batch_is_the_images_as_the_network_gets_them():
    own = make()
    images, labels = own.batch(0, 0)
    assert torch.equal(images, (own.images() - 0.5) / 0.25)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    images.sum().backward()
    # The transform divides by 0.25.
    assert torch.equal(own.parametrization.pixels.grad, torch.full_like(own.images(), 4.0))


def test_groups_are_taken_in_turn():
    own = make(batching="groups", groups=2)
    assert [own.indices(k, 0).tolist() for k in range(3)] == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]


def test_minibatches_go_once_through_all_images_before_any_comes_again():
    own = make(batching="minibatches", batch_size=2)
    for seed in range(3):
        for begin in (0, 3, 6):
            seen = torch.cat([own.indices(begin + k, seed) for k in range(3)])
            assert sorted(seen.tolist()) == list(range(6))
    orders = {
        tuple(torch.cat([own.indices(k, seed) for k in range(3)]).tolist()) for seed in range(9)
    }
    assert len(orders) > 1
    assert torch.equal(own.indices(2, 5), own.indices(2, 5))


def test_step_sizes_stay_positive_under_a_hostile_step():
    own = make()
    with torch.no_grad():
        own.log_step_sizes.sub_(50)
    assert bool((own.step_sizes() > 0).all())


def test_step_sizes_by_parameter_are_columns():
    sizes = torch.arange(1.0, 9.0, dtype=torch.float64).view(4, 2)
    own = make(step_sizes=sizes, step_size_parameters=("w", "b"))
    torch.testing.assert_close(own.step_size(), {"w": sizes[:, 0], "b": sizes[:, 1]})
    plain = make()
    torch.testing.assert_close(plain.step_size(), plain.step_sizes())


def test_label_weights_start_as_the_hard_ones_and_may_be_any_number():
    own = make(soft="weights")
    hard = torch.nn.functional.one_hot(own.labels, 3).double()
    assert torch.equal(own.targets(), hard)
    given = torch.tensor([-2.0, 0.5, 7.0], dtype=torch.float64).repeat(6, 1)
    own.set_targets(given)
    assert torch.equal(own.targets(), given)
    own.targets().sum().backward()
    assert torch.equal(own.learned_labels.grad, torch.ones_like(given))


def test_soft_labels_start_close_to_the_hard_ones():
    own = make(soft=True)
    probabilities = own.targets()
    assert torch.allclose(probabilities.sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(probabilities.argmax(1), own.labels)
    # 0.9 for its own class, the rest shared by the other two.
    assert torch.allclose(probabilities[0], torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64))


def test_augmentation_differs_from_step_to_step_and_repeats_itself():
    own = make(augmentation="shift")
    batches = [own.batch(step, 1)[0] for step in range(8)]
    assert any(not torch.equal(batches[0], other) for other in batches[1:])
    assert torch.equal(own.batch(3, 1)[0], batches[3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "groups", "groups": 4}, "`groups` must divide the number of images, 6"),
        ({"batching": "minibatches", "batch_size": 7}, "must not exceed the number of images, 6"),
        ({"step_sizes": torch.zeros(4)}, "must be positive"),
        ({"step_sizes": torch.ones(5)}, r"of shape \(\) or \(4,\)"),
        ({"step_size_parameters": ("w", "b")}, r"of shape \(4, 2\), got"),
    ],
)
def test_numbers_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "distinct"),
    [
        ({}, 1),
        ({"batching": "groups", "groups": 2}, 2),
        ({"batching": "minibatches", "batch_size": 2}, 4),
        ({"augmentation": "flip"}, 4),
    ],
)
def test_batches_are_those_of_the_steps_and_made_once_where_they_repeat(options, distinct):
    own = make(soft=True, **options)
    batches = own.batches(5)
    found = [batches(step) for step in range(4)]
    for step, batch in enumerate(found):
        assert all(map(torch.equal, batch, own.batch(step, 5)))
    assert len({id(images) for images, _ in found}) == distinct


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batching": "groups", "groups": 2},
        {"batching": "minibatches", "batch_size": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("soft", [False, True, "weights"])
def test_a_step_trains_on_copies_that_are_augmented_by_themselves(options, soft):
    torch.manual_seed(0)
    own = make(augmentation="noise", augmentations_per_step=3, soft=soft, **options)
    torch.manual_seed(0)
    single = make(augmentation="noise", soft=soft, **options)
    for step in (0, 1, 5):
        (images, targets), (first, labels) = own.batch(step, 7), single.batch(step, 7)
        size = len(own.indices(step, 7))
        assert (images.shape[0], targets.shape[0]) == (3 * size, 3 * size)
        # The first copy is the batch of a recipe with one, to the bit.
        assert torch.equal(images[:size], first)
        copies = images.unflatten(0, (3, size))
        assert not torch.equal(copies[0], copies[1])
        assert not torch.equal(copies[1], copies[2])
        assert all(torch.equal(part, labels) for part in targets.unflatten(0, (3, size)))
        assert all(map(torch.equal, own.batches(7)(step), (images, targets)))


def test_one_augmentation_per_step_is_that_of_version_0_1_0():
    own = make(augmentation="flip_rotate_noise", batching="minibatches", batch_size=4)
    for step, seed in ((0, 0), (3, 5)):
        chosen = own.indices(step, seed)
        expected = own.augmentation(
            own.images()[chosen],
            mix(seed, InnerPurpose.AUGMENTATION, step),
            groups=own.labels[chosen],
        )
        images, targets = own.batch(step, seed)
        assert torch.equal(images, own.transform(expected))
        assert torch.equal(targets, own.labels[chosen])


def test_images_of_a_class_share_the_augmentation_of_each_copy():
    own = make(augmentation="noise", augmentations_per_step=2)
    with torch.no_grad():
        own.parametrization.pixels.copy_(own.images()[:1].expand(6, -1, -1, -1))
    first, second = own.batch(0, 0)[0].unflatten(0, (2, 6))
    for copy in (first, second):
        assert torch.equal(copy[:3], copy[3:])
        assert not torch.equal(copy[0], copy[1])


def test_copies_without_augmentation_are_one():
    own = make(augmentations_per_step=4)
    assert own.copies_per_step == 1
    assert len(own.batch(0, 0)[0]) == len(own.labels)


def test_the_gradient_of_copies_is_the_sum_of_theirs():
    own = make(augmentation="crop", augmentations_per_step=2)
    images, _ = own.batch(2, 1)
    weights = torch.rand_like(images)
    (whole,) = torch.autograd.grad((images * weights).sum(), own.parametrization.pixels)
    parts = []
    for copy, seed in enumerate(
        (mix(1, InnerPurpose.AUGMENTATION, 2), mix(1, InnerPurpose.AUGMENTATION, 2, 1))
    ):
        part = own.transform(own.augmentation(own.images(), seed, groups=own.labels))
        own_weights = weights.unflatten(0, (2, 6))[copy]
        parts += torch.autograd.grad((part * own_weights).sum(), own.parametrization.pixels)
    torch.testing.assert_close(whole, parts[0] + parts[1])


@pytest.mark.parametrize("augmentation", ["none", "flip", "dsa", "flip+crop+color", "noise"])
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize(
    "batching",
    [
        {},
        {"batching": "groups", "groups": 2},
        {"batching": "minibatches", "batch_size": 4},
    ],
)
def test_batches_that_are_made_at_once_are_those_of_the_steps(augmentation, copies, batching):
    made = make(soft=True, augmentation=augmentation, augmentations_per_step=copies, **batching)
    steps = [5, 0, 3, 3]
    together = made.batches_at_once(steps, seed=7)
    for step, (images, labels) in zip(steps, together, strict=True):
        alone, its_labels = made.batch(step, 7)
        assert torch.equal(images, alone)
        assert torch.equal(labels, its_labels)
    leaves = made.leaves()["images"]

    def gradients(batches):
        loss = sum((k + 1) * images.square().sum() for k, (images, _) in enumerate(batches))
        return torch.autograd.grad(loss, leaves)

    expected = gradients([made.batch(step, 7) for step in steps])
    for a, b in zip(gradients(together), expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
