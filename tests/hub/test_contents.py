"""`dd_plugin.hub.contents`: what a set shows of itself."""

import numpy as np
import torch

from dd_plugin.hub.folder import to_bytes


def test_what_is_in_it(distilled):
    assert len(distilled) == 3
    assert distilled.class_names == ("left", "right", "middle")
    assert distilled.images.shape == (3, 1, 8, 8)
    assert distilled.labels.tolist() == [0, 1, 2]
    assert distilled.soft_labels is None
    assert distilled.step_sizes.shape == (12,)
    assert distilled.results["distilled"]["accuracies"]
    rows = distilled.to_dataset()
    assert rows.features["label"].names == ["left", "right", "middle"]
    pixels = torch.stack([torch.from_numpy(np.array(row["image"])) for row in rows])
    assert torch.equal(pixels.view(3, 1, 8, 8).to(torch.uint8), to_bytes(distilled.images))
