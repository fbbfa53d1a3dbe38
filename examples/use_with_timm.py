"""Trains a timm model on a distilled set with timm's own reader and loader.

timm reads a distilled set as it is, by the name `hfds/SET`, and an exported image folder by its
path: nothing of dd_plugin is imported here. SGD with one step size is not the recipe of the set, so
this reaches what it reaches; `DistilledDataset.fit` trains by the recipe.

Run it with `python examples/use_with_timm.py hfds/SET`, where SET is a folder that `dd-plugin
distill` wrote or the id of a distilled set on the Hub, or with the path of an image folder.
"""

import argparse

import timm
import torch
from timm.data import create_dataset, create_loader


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", metavar="SET")
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--mean", type=float, nargs="+", default=[0.5, 0.5, 0.5])
    parser.add_argument("--std", type=float, nargs="+", default=[0.25, 0.25, 0.25])
    args = parser.parse_args()

    # A channel each in the mean: gray images are read as such.
    channels = len(args.mean)
    mode = {1: "L", 3: "RGB"}[channels]
    from_hub = args.source.startswith("hfds/")
    images = create_dataset(
        args.source if from_hub else "",
        root=None if from_hub else args.source,
        split="train",
        input_img_mode=mode,
    )
    loader = create_loader(
        images,
        input_size=(channels, args.size, args.size),
        # A last batch that is not full is left out.
        batch_size=min(len(images), 64),
        is_training=True,
        no_aug=True,
        mean=args.mean,
        std=args.std,
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=False,
    )
    classes = len(images.reader.class_to_idx)
    model = timm.create_model(args.model, num_classes=classes, in_chans=channels)
    optimizer = torch.optim.SGD(model.parameters(), args.learning_rate, momentum=0.9)
    model.train()
    for _ in range(args.epochs):
        for pixels, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(pixels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"{len(images)} images of {classes} classes, loss at the end: {loss.item():.4f}")


if __name__ == "__main__":
    main()
