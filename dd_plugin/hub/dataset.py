"""`DistilledDataset`: a distilled set from a folder or the Hub.

Top of `hub`. What one does with a set is in `using`, `merging` and `written`, whose functions the
methods call. The folder behind a set stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dd_plugin.bilevel.problem import Loss
from dd_plugin.choices import EVALUATED_NETWORKS
from dd_plugin.data import RealData
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation import HeadTest, InputBatches, Scores
from dd_plugin.evaluation.preparation import input_batches, training_input
from dd_plugin.evaluation.training_images import PixelKind, with_pixels
from dd_plugin.hub.limits import Limits
from dd_plugin.hub.merging import check_folders, merge_sets
from dd_plugin.hub.opening import open_set
from dd_plugin.hub.reading import StoredSet
from dd_plugin.hub.using.backbones import OtherWeightsWarning, backbone_of, loaded
from dd_plugin.hub.using.choosing import Protocol, TrainedBy, new_network, protocol_for
from dd_plugin.hub.using.evaluating import head_test, network_scores, seeds_of
from dd_plugin.hub.using.predicting import by_name, pixels_of, probabilities_of
from dd_plugin.hub.using.real_images import real_images
from dd_plugin.hub.using.training import FitOptions, fit_head, fit_network
from dd_plugin.hub.written import WrittenSet
from dd_plugin.networks import Backbone
from dd_plugin.networks.fresh import ModelInit

__all__ = ["DistilledDataset", "OtherWeightsWarning"]


class DistilledDataset(WrittenSet):
    """A distilled data set with its recipe. Made by `from_pretrained`.

    Attributes:
        folder: where its files are; they are not changed.
        record: all of ``recipe.json``: recipe, results, how they were taken, versions.
        initial: weights and statistics that networks start from, if it was distilled for one
            initialization; else empty. Of several networks `Recipe.of_network` gives those of one.
    """

    def __init__(self, stored: StoredSet, folder: Path, limits: Limits | None = None) -> None:
        self.folder, self.initial = folder, stored.initial
        self.record = stored.record.to_json()
        self._stored = stored if limits is None else replace(stored, limits=limits)
        self._synthetic = stored.synthetic
        # What prepares the input of the networks that `fit` has made.
        self._backbones: WeakKeyDictionary[nn.Module, Backbone] = WeakKeyDictionary()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        max_bytes: int = Limits.max_bytes,
        max_expanded_bytes: int = Limits.max_expanded_bytes,
        max_image_size: int = Limits.max_image_size,
        max_tensors: int = Limits.max_tensors,
        max_steps: int = Limits.max_steps,
        max_parameters: int = Limits.max_parameters,
    ) -> DistilledDataset:
        """Read a distilled set.

        Nothing in a set is executed. The limits keep a set of a few kilobytes from taking gigabytes
        or days; raise them for sets that are meant to be so large.

        Args:
            name: a folder, or the id of a data set on the Hub.
            revision: commit, branch or tag on the Hub.
            token: for private sets; by default the one of ``hf auth login``.
            cache_dir: where downloads are kept; by default the Hub's own cache.
            local_files_only: take it from the cache, without a request.
            max_bytes: the largest file that is fetched or read.
            max_expanded_bytes: bytes of all images, where they are stored smaller than they are.
            max_image_size: pixels of the longer side of an image.
            max_tensors: tensors in the set.
            max_steps: training steps of the recipe.
            max_parameters: parameters of the network that the recipe names.

        Raises:
            DistilledFormatError: It is no distilled set, a damaged one, or over a limit.
            DownloadError: The Hub does not give it; the message says why.

        Warns:
            StaleSetWarning: The Hub does not answer, and the set comes from the cache.
        """
        limits = Limits(
            max_bytes=max_bytes,
            max_expanded_bytes=max_expanded_bytes,
            max_image_size=max_image_size,
            max_tensors=max_tensors,
            max_steps=max_steps,
            max_parameters=max_parameters,
        )
        stored, folder = open_set(
            name,
            limits,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls(stored, folder)

    def merge(
        self, *others: DistilledDataset, folder: str | Path, same_classes: bool = False
    ) -> DistilledDataset:
        """Write a set with the classes and images of this one and of others.

        The classes are in the order of this set, then the new ones of each other set. Images and
        labels stay. Step sizes and BatchNorm statistics are means, weighted by images. A label that
        was learned gets a small probability for each class of the other sets.

        Args:
            others: sets of the same image size, normalization, labels and recipe.
            folder: where to write it, new or empty.
            same_classes: classes of the same name are one class; by default they are refused.

        Raises:
            TypeError: one is no `DistilledDataset`.
            MergeError: the sets do not go together; it says in what, and what to do.
            ValueError: the folder holds something.
            OSError: the folder cannot be written; then nothing is left of it.
        """
        for other in others:
            if not isinstance(other, DistilledDataset):
                raise TypeError(
                    f"`others` must be of DistilledDataset, got {other!r:.60}; open a folder or an "
                    "id with `DistilledDataset.from_pretrained`, and give sets one by one"
                )
        check_folders([each.folder for each in (self, *others)])
        sets = {str(each.folder): each._stored for each in (self, *others)}
        merge_sets(sets, Path(folder), same_classes=same_classes)
        return DistilledDataset.from_pretrained(folder)

    # Training and testing: `using`.

    def fit(
        self,
        model: ModelInit | None = None,
        *,
        seed: int = 0,
        protocol: Protocol = "auto",
        pixels: PixelKind = "exact",
        device: torch.device | str = "cpu",
        loss: Loss | None = None,
    ) -> nn.Module:
        """Train a network on the set.

        Args:
            model: a name, a function that makes a network, or a network, which is copied; by
                default the one that the set was distilled for, or the first of several, freshly
                initialized, or with its pretrained weights where the set is for heads.
            seed: decides the initial weights (of a name or function) and the course of training.
            protocol: ``"recipe"``: the stored steps, step sizes, optimizer and BatchNorm policy;
                ``"standard"``: as one trains on real images (AdamW, cosine schedule),
                for networks that the recipe was not made for; ``"auto"``: the recipe for its own
                network, standard for another name.
            pixels: the exact images, or those of the 8-bit PNG files.
            device: where to train; the network stays there.
            loss: ``(logits, labels) -> scalar``, needed where the set was distilled with one that
                the recipe cannot hold; learned labels are probabilities, or weights of any sign
                with ``label_form="weights"``.

        Returns:
            The network in eval mode, an ordinary module of its library, in the precision of the
            images. Of a set for heads: the pretrained model of that name (or a copy of the module)
            with a head for the classes of the set, trained on it.

        Raises:
            ValueError: the recipe lacks something, or the network does not fit; it says what to do.
            ModelLoadError: no model of that name.
            DivergedError: training ended in values that are not numbers.
        """
        options = FitOptions(protocol=protocol, pixels=pixels, device=device, loss=loss)
        if self.recipe.trainable != "head":
            return fit_network(self._stored, model, seed, options)
        model_with_head, backbone = fit_head(self._stored, model, options)
        self._backbones[model_with_head] = backbone
        return model_with_head

    def backbone(
        self, model: ModelInit | None = None, *, device: torch.device | str = "cpu"
    ) -> Backbone:
        """Return the frozen network whose head is trained on a set for heads, with its weights.

        Args:
            model: see `fit`; by default the first one that the set was distilled for.
            device: where it is.

        Raises:
            ValueError: the set is for whole networks, or its backbone has no name.
            BackboneError: the model has no head to train, or its weights cannot be loaded.

        Warns:
            OtherWeightsWarning: it is one that the set was distilled for, with other weights.
        """
        return backbone_of(self._stored, model, device)

    def new_network(
        self, model: ModelInit | None = None, *, seed: int = 0, protocol: Protocol = "auto"
    ) -> nn.Module:
        """Return the network that `fit` trains, before it is trained.

        Args:
            model: see `fit`.
            seed: see `fit`.
            protocol: see `fit`.

        Raises:
            ValueError: the set's own network has no name, or the set is for heads.
            ModelLoadError: no model of that name.
        """
        return new_network(self._stored, model, seed=seed, protocol=protocol)

    def predict(self, model: nn.Module, images: Any, *, top: int | None = None) -> Any:
        """Return the class probabilities of images, which are prepared as for training.

        Args:
            model: what `fit` gave; it is put into eval mode.
            images: a Pillow image, a path, an array or a tensor, or a list of these.
            top: how many classes, the most probable ones; by default all.

        Returns:
            A dictionary from class name to probability, most probable first; of a list of images,
            a list of these.

        Raises:
            DataError: something is no image.
            ValueError: the network was not trained on this set.
        """
        several = isinstance(images, (list, tuple))
        pixels = pixels_of(images if several else [images], self.recipe)
        network_input: Callable[[Tensor], Tensor] = self._synthetic.transform
        if self.recipe.trainable == "head":
            if model not in self._backbones:
                device = next(model.parameters()).device
                self._backbones[model], _ = loaded(self._stored, model, device)
            network_input = self._backbones[model].network_input
        probabilities = probabilities_of(model, pixels, self.recipe, network_input)
        answers = by_name(probabilities, self.class_names, top)
        return answers if several else answers[0]

    def evaluate(
        self,
        model: ModelInit | None = None,
        dataset: Any = None,
        *,
        split: str | None = None,
        networks: int = EVALUATED_NETWORKS,
        seed: int | None = None,
        protocol: Protocol = "auto",
        pixels: PixelKind = "exact",
        device: torch.device | str = "cpu",
        batch_size: int = 500,
        loss: Loss | None = None,
    ) -> Scores:
        """Return the accuracy of fresh networks trained on the set, in eval mode.

        Without ``seed`` the networks are those whose accuracies are on the card.

        Args:
            model: see `fit`; by default what the set was distilled for, or the first of several.
            dataset: real images: `RealData`, or what `dd_plugin.data.load_real` takes; by default
                the data set that the results on the card were taken on.
            split: of the data set; by default that of the card, or else ``"test"``.
            networks: how many; one where the initialization is fixed and all would be the same.
            seed: of which the networks' seeds are functions.
            protocol: see `fit`.
            pixels: see `fit`.
            device: where to train and test.
            batch_size: test images at a time; without effect on the result.
            loss: see `fit`.

        Raises:
            DataError: the real images cannot be read, or do not fit.
            ValueError: see `fit`.
            DivergedError: see `fit`.
        """
        if networks < 1:
            raise ValueError(f"`networks` must be at least 1, got {networks}")
        data = self.real_data(dataset, split, device=device)
        if self.recipe.trainable == "head":
            test = self.head_test(model, data, device=device, loss=loss, protocol=protocol)
            return Scores((test.distilled(self.synthetic(pixels, device)),))
        options = FitOptions(protocol=protocol, pixels=pixels, device=device, loss=loss)
        seeds, batches = self.seeds(networks, seed), self.test_batches(data, batch_size)
        return network_scores(self._stored, model, seeds=seeds, options=options, batches=batches)

    def head_test(
        self,
        model: ModelInit | None,
        test: RealData,
        train: RealData | None = None,
        *,
        device: torch.device | str = "cpu",
        loss: Loss | None = None,
        folder: Path | None = None,
        protocol: Protocol = "auto",
        backbone: Backbone | None = None,
    ) -> HeadTest:
        """Return the test of heads on one backbone, trained on this set or on real images.

        Args:
            model: see `backbone`.
            test: real images to test on.
            train: real images to train on.
            device: where.
            loss: see `fit`.
            folder: where the features of the real images are kept; by default in memory alone.
            protocol: see `fit`; by ``"standard"`` heads are trained as linear probes are.
            backbone: what `backbone` gave for the model, if it is loaded already; it is moved to
                the device.
        """
        return head_test(
            self._stored,
            model,
            FitOptions(protocol=protocol, device=device, loss=loss),
            test=test,
            train=train,
            folder=folder,
            backbone=backbone,
        )

    def synthetic(self, pixels: PixelKind, device: torch.device | str = "cpu") -> SyntheticSet:
        """Return the set as networks are trained on it."""
        return with_pixels(self._synthetic, pixels).to(device)

    def seeds(self, networks: int, seed: int | None = None) -> list[int]:
        """Return the seeds of an evaluation's networks; by default those of the card, and more."""
        return seeds_of(self._stored.record, networks, seed)

    def real_data(
        self, dataset: Any = None, split: str | None = None, *, device: torch.device | str = "cpu"
    ) -> RealData:
        """Return real images with the classes, channels and size of this set.

        Args:
            dataset: see `evaluate`.
            split: see `evaluate`.
            device: where they are kept.

        Raises:
            DataError: they cannot be read, or do not fit.
            ValueError: the card does not say which data set.
        """
        return real_images(self._stored.record, dataset, split, device)

    def test_batches(self, data: RealData, size: int) -> InputBatches:
        """Return real images as network input, in batches."""
        return input_batches(self._synthetic, data, size)

    def prepare(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return real images as augmented network input, as networks are trained on them."""
        return training_input(self._synthetic, images, seed), labels

    def protocol_for(self, protocol: Protocol, model: ModelInit | None) -> TrainedBy:
        """Return the protocol that ``protocol="auto"`` of `fit` means for a network."""
        return protocol_for(self.recipe, protocol, model)
