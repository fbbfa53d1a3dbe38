"""Ways in which a model may write into a tensor that it keeps."""

import torch


def in_place(kept, mean):
    kept.mul_(0.9).add_(mean, alpha=0.1)


def out_keyword(kept, mean):
    torch.lerp(kept, mean, 0.1, out=kept)


def several_outputs(kept, mean):
    torch.aminmax(mean.view(2, 3), dim=0, out=(kept[:3], kept[3:]))


def sorted_into_it(kept, mean):
    torch.sort(mean, out=(kept, torch.empty(6, dtype=torch.int64)))


def chunks(kept, mean):
    first, second = kept.chunk(2)
    second.copy_(mean[:3])
    first.add_(second)


def view_of_a_view(kept, mean):
    kept.view(2, 3).t()[1:].reshape(2, 2).mul_(0.5)  # a copy: nothing happens
    kept.view(2, 3).t()[1:].mul_(mean[:4].view(2, 2))


def by_index(kept, mean):
    kept[torch.tensor([0, 3])] = mean[:2]
    kept[1] = mean[2]


def strided(kept, mean):
    torch.as_strided(kept, (3,), (2,), 1).copy_(mean[::2])


def several_at_once(kept, mean):
    torch._foreach_mul_([kept[:2], kept[4:]], 0.5)
    torch._foreach_add_([kept[:2], kept[4:]], [mean[:2], mean[4:]])


def through_data(kept, mean):
    kept.data.mul_(0.5).add_(mean.data)


def swapped(kept, mean):
    before = kept.clone()
    kept.copy_(mean)
    mean = before + kept
    kept.sub_(mean)


def sum_of_negatives(kept, mean):
    negative = -kept
    kept.copy_(mean)
    kept.sub_(negative.sum())


STEPS = [
    in_place,
    out_keyword,
    several_outputs,
    sorted_into_it,
    chunks,
    view_of_a_view,
    by_index,
    strided,
    several_at_once,
    through_data,
    swapped,
    sum_of_negatives,
]
