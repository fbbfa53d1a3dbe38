"""Heads trained on augmented copies of a few images: distilled, and real ones beside them.

    python -m tests.benchmarks.augmented_heads --dataset FOLDER --json FILE --sets FOLDER...

Takes sets that `tests.benchmarks.heads` has made. A head is trained on each image and on `COPIES`
copies of it, augmented as in the recipe of the sets, by ridge regression with the strength that the
set has learned. The 8-bit images of the set, random real images, and real images chosen by rules
get the same copies. All three EfficientNet-Lites judge, on 2,000 validation images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugin import DistilledDataset
from dd_plugin.data import RealData
from dd_plugin.data.augmentation import Augmentation
from dd_plugin.evaluation.coresets import herding, k_center, nearest_to_centroid, random_rows
from dd_plugin.evaluation.probe import accuracy_of_head
from dd_plugin.networks import RidgeHead, load_backbone
from dd_plugin.networks.backbones import Backbone
from dd_plugin.networks.features import Features, features_of
from tests.benchmarks.heads import LITES, TEST, TRAIN

COPIES = 16
AUGMENTATION = "resizedcrop+flip+noise"
DRAWS = 5
RULES: dict[str, Callable[..., Tensor]] = {
    "nearest to the centroid": nearest_to_centroid,
    "herding": herding,
    "k-center": k_center,
}


@torch.no_grad()
def with_copies(backbone: Backbone, images: Tensor) -> Tensor:
    """Features ``((1 + COPIES) n, d)`` of n images in [0, 1] and of their copies."""
    augmented = Augmentation(AUGMENTATION)
    every = [images, *(augmented(images, seed) for seed in range(COPIES))]
    return torch.cat([backbone(part) for part in every])


class Real:
    """Real images with their features by one network.

    Args:
        backbone: the network.
        train: to choose from.
        images: the same as one tensor, uint8.
        test: to test on.
        folder: where features are kept.
    """

    def __init__(
        self, backbone: Backbone, train: RealData, images: Tensor, test: RealData, folder: Path
    ) -> None:
        self.backbone, self.images = backbone, images
        self.train: Features = features_of(backbone, train, folder=folder)
        self.test: Features = features_of(backbone, test, folder=folder)
        self._chosen: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}

    def chosen(self, name: str, per_class: int) -> list[tuple[Tensor, Tensor]]:
        """Features with copies, and labels, of each choice that a rule or chance makes."""
        key = (name, per_class)
        if key not in self._chosen:
            given = (self.train.values[0], self.train.labels, per_class)
            classes = self.train.num_classes
            if name == "random real":
                rows = [random_rows(*given, seed=s, num_classes=classes) for s in range(DRAWS)]
            else:
                rows = [RULES[name](*given, num_classes=classes)]
            self._chosen[key] = [
                (with_copies(self.backbone, self.images[r] / 255), self.train.labels[r])
                for r in rows
            ]
        return self._chosen[key]

    def accuracy(self, features: Tensor, labels: Tensor, constants: dict[str, Tensor]) -> float:
        """Of the head that is trained on features with copies."""
        head = RidgeHead().fit(
            features,
            labels.repeat(1 + COPIES),
            num_classes=self.train.num_classes,
            step_sizes=torch.zeros(()),
            constants=constants,
        )
        test = self.test.values[0].float()
        return accuracy_of_head(head.weight, head.bias, test, self.test.labels)


def judged(folder: Path, networks: dict[str, Real]) -> dict[str, Any]:
    """The accuracies of one set and of real images, as many and trained on alike."""
    distilled = DistilledDataset.from_pretrained(folder)
    synthetic = distilled.synthetic("png")
    constants = {name: t.detach() for name, t in synthetic.constants().items()}
    per_class = int(distilled.images_per_class)
    rows = []
    for name, real in networks.items():
        features = with_copies(real.backbone, synthetic.images().detach())
        found = {"distilled, 8-bit": [real.accuracy(features, synthetic.labels, constants)]}
        for choice in ("random real", *RULES):
            chosen = real.chosen(choice, per_class)
            found[choice] = [real.accuracy(f, y, constants) for f, y in chosen]
        rows.append({"model": name, **found})
    return {"set": folder.name, "rows": rows}


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.augmented_heads")
    parser.add_argument("--dataset", required=True, help="a folder with CIFAR-10, or its id")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where features are kept")
    parser.add_argument("--sets", type=Path, nargs="+", required=True, help="of one image size")
    options = parser.parse_args()
    first = DistilledDataset.from_pretrained(options.sets[0])
    train = first.real_data(options.dataset, f"train[:{TRAIN}]")
    test = first.real_data(options.dataset, f"validation[:{TEST}]")
    images = torch.cat([part.mul(255).round().byte() for part, _ in train.batches(500)])
    networks = {
        name: Real(load_backbone(name), train, images, test, options.folder) for name in LITES
    }
    sets = []
    for folder in options.sets:
        sets.append(judged(folder, networks))
        about = {"command": "python -m tests.benchmarks.augmented_heads", "copies": COPIES}
        options.json.write_text(json.dumps({**about, "sets": sets}, indent=1) + "\n")
        for row in sets[-1]["rows"]:
            print(folder.name, row["model"], {k: v for k, v in row.items() if k != "model"})


if __name__ == "__main__":
    main()
