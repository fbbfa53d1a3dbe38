"""Trains a Hugging Face model on a distilled set with a plain `transformers.Trainer`.

A distilled set is an ordinary image data set: nothing of dd_plugin is imported here. What the
Trainer does (shuffling, AdamW, its schedule) is not the recipe of the set, so this reaches what it
reaches; `DistilledDataset.fit` trains by the recipe.

Run it with `python examples/use_with_trainer.py SET`, where SET is a folder that `dd-plugin
distill` wrote or the id of a distilled set on the Hub.
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import load_dataset
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments


def normalization(source: str) -> list[v2.Transform]:
    """The recipe's, where SET is a folder that has one; pixels as they are otherwise."""
    path = Path(source) / "recipe.json"
    transform = json.loads(path.read_text())["transform"] if path.exists() else {}
    if transform.get("kind") != "normalization":
        return []
    return [v2.Normalize(transform["mean"], transform["std"])]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", metavar="SET")
    parser.add_argument("--test", metavar="DATA", help="real images to test on: a folder or Hub id")
    parser.add_argument("--max_steps", type=int, default=200)
    parser.add_argument("--learning_rate", type=float, default=1e-2)
    parser.add_argument("--output_dir", default="trained")
    args = parser.parse_args()

    images = load_dataset(args.source, split="train")
    names = images.features["label"].names
    channels = len(images[0]["image"].getbands())
    prepare = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), *normalization(args.source)]
    )

    def prepared(rows):
        return {"pixel_values": prepare(rows["image"]), "labels": rows["label"]}

    config = ResNetConfig(
        num_channels=channels,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
    )
    trainer = Trainer(
        model=ResNetForImageClassification(config),
        args=TrainingArguments(
            output_dir=args.output_dir,
            max_steps=args.max_steps,
            learning_rate=args.learning_rate,
            per_device_train_batch_size=min(len(images), 64),
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
        ),
        train_dataset=images.with_transform(prepared),
        eval_dataset=load_dataset(args.test, split="test").with_transform(prepared)
        if args.test
        else images.with_transform(prepared),
        compute_metrics=lambda found: {
            "accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())
        },
    )
    trainer.train()
    trainer.save_model()
    accuracy = trainer.evaluate()["eval_accuracy"]
    data = args.test or "the distilled images themselves"
    print(f"accuracy on {data}: {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
