"""`DistilledDataset`: a distilled set from a folder or the Hub, and what one does with it.

Top of `hub`: it reads through `reading`, trains and tests through `dd_plugin.evaluation`, and
publishes through `push`. The folder behind it stays as it is.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dd_plugin.bilevel import cross_entropy, logits_of
from dd_plugin.bilevel.problem import Loss
from dd_plugin.data import DataError, Normalization, RealData, load_real
from dd_plugin.data.network_records import BackboneRecord
from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.real.pixels import read_pixels
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation import (
    InputBatches,
    OtherArchitectureWarning,
    Scores,
    network_seed,
    train_by_recipe,
)
from dd_plugin.evaluation.baselines import accuracy_of_module
from dd_plugin.evaluation.heads import HeadTest, probe_on, train_head
from dd_plugin.evaluation.training import train_as_usual
from dd_plugin.files import write_together
from dd_plugin.hub.exports import export_dd_ranking, export_image_folder
from dd_plugin.hub.folder import instead_of_the_set_in, to_bytes
from dd_plugin.hub.limits import Limits
from dd_plugin.hub.reading import IMAGES, RECORD, StoredSet, read_set
from dd_plugin.hub.remote.download import download_set
from dd_plugin.hub.remote.published import PUBLISHED, check_replaceable, published_paths
from dd_plugin.hub.remote.push import PushResult, push_folder
from dd_plugin.networks.backbones import (
    Backbone,
    BackboneError,
    check_recorded_backbone,
    load_backbone,
)
from dd_plugin.networks.features import features_of
from dd_plugin.networks.fresh import ModelInit, fresh_network
from dd_plugin.networks.head_solvers import head_of
from dd_plugin.networks.heads import Head
from dd_plugin.networks.lite_weights import LITE_PREFIX
from dd_plugin.networks.names import factory_from

Protocol = Literal["auto", "recipe", "standard"]
PixelKind = Literal["exact", "png"]


class OtherWeightsWarning(UserWarning):
    """A backbone has other weights than when the set was distilled, under the same name."""


def _folder_called(name: str | Path) -> Path | None:
    """The folder of a name, or None where there is none."""
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, no such home, or with a zero in it
        return None


class DistilledDataset:
    """A distilled data set with its recipe. Made by `from_pretrained`.

    Attributes:
        folder: where its files are; they are not changed.
        record: all of ``recipe.json``: recipe, results, how they were taken, versions.
        initial: weights and statistics that networks start from, if it was distilled for one
            initialisation; else empty. Of several networks `Recipe.of_network` gives those of one.
    """

    def __init__(self, stored: StoredSet, folder: Path, limits: Limits | None = None) -> None:
        self.folder, self.initial = folder, stored.initial
        self.record, self._record = stored.record.to_json(), stored.record
        self._synthetic = stored.synthetic
        self._limits = limits or Limits()
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
            local_files_only: take it from the cache, ask nobody.
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
            max_bytes, max_expanded_bytes, max_image_size, max_tensors, max_steps, max_parameters
        )
        folder = _folder_called(name)
        if folder is None:
            folder = download_set(
                str(name),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                max_bytes=max_bytes,
            )
        return cls(read_set(folder, limits=limits), folder, limits)

    # What is in it.

    @property
    def recipe(self) -> Recipe:
        """How a network is trained on it."""
        return self._synthetic.recipe

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return self.recipe.class_names

    @property
    def images(self) -> Tensor:
        """The exact images ``(N, C, H, W)``, numbers from 0 to 1."""
        return self._synthetic.images().detach()

    @property
    def images_per_class(self) -> float:
        """Real images per class that take as much storage; upsampled ones are stored smaller."""
        return self._synthetic.images_per_class

    @property
    def labels(self) -> Tensor:
        """Class indices ``(N,)``."""
        return self._synthetic.labels

    @property
    def soft_labels(self) -> Tensor | None:
        """Probabilities, or weights in the loss, ``(N, classes)`` where labels were learned."""
        soft = self._synthetic.learned_labels is not None
        return self._synthetic.targets().detach() if soft else None

    @property
    def step_sizes(self) -> Tensor:
        """``(steps,)``, 0-d for all steps alike, or ``(steps, parameters)``.

        The last where ``recipe.step_size_parameters`` names the parameters.
        """
        return self._synthetic.step_sizes().detach()

    @property
    def results(self) -> dict[str, Any]:
        """The accuracies that its author measured, in [0, 1], by what networks were trained on."""
        return {name: result.to_json() for name, result in self._record.results.items()}

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.recipe.shape))
        names = [one.model for one in self.recipe.architectures]
        return (
            f"DistilledDataset({len(self)} images of {size}, {self.recipe.num_classes} classes, "
            f"{self.recipe.steps} steps, model={(names[0] if len(names) == 1 else names)!r})"
        )

    def to_dataset(self) -> Any:
        """The images as PNG with their labels: the `datasets.Dataset` that `load_dataset` gives."""
        from datasets import Dataset

        return Dataset.from_parquet(str(self.folder / IMAGES))

    # Training and testing.

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
                initialised, or with its pretrained weights where the set is for heads.
            seed: decides the initial weights (of a name or function) and the course of training.
            protocol: ``"recipe"``: the stored steps, step sizes, optimizer and BatchNorm policy;
                ``"standard"``: as one trains on real images (AdamW, cosine schedule, 400 steps),
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
        recipe, chosen = self.recipe, self.protocol_for(protocol, model)
        if recipe.trainable == "head":
            return self._fit_head(model, chosen, pixels, device, loss)
        network = self.new_network(model, seed=seed, protocol=protocol)
        if chosen == "recipe" and recipe.loss == "custom" and loss is None:
            raise ValueError(
                "`loss` must be given: this set was distilled with a loss of its author's own; "
                'pass that function, or use protocol="standard"'
            )
        synthetic = self._as(pixels).to(device)
        if chosen == "standard":
            return train_as_usual(synthetic, network, seed)
        which = self._place_of(model, network)
        initial = {} if which is None else recipe.of_network(which, self.initial)
        return train_by_recipe(
            synthetic,
            network,
            seed,
            which=which,
            initial={n: t.to(device) for n, t in initial.items()},
            loss=loss or cross_entropy,
        )

    def _fit_head(
        self,
        model: ModelInit | None,
        protocol: str,
        pixels: PixelKind,
        device: torch.device | str,
        loss: Loss | None,
    ) -> nn.Module:
        backbone = self.backbone(model, device=device)
        synthetic = self.synthetic(pixels, device)
        if protocol == "standard":
            head = probe_on(backbone, synthetic)
        else:
            head = train_head(backbone, self._head(loss), synthetic)
        model_with_head = backbone.with_head(head.weight, head.bias, list(self.class_names))
        self._backbones[model_with_head] = backbone
        return model_with_head

    def _head(self, loss: Loss | None = None) -> Head:
        """How a head is trained on this set."""
        recipe = self.recipe
        if recipe.loss == "custom" and recipe.head == "unroll" and loss is None:
            raise ValueError(
                "`loss` must be given: this set was distilled with a loss of its author's own; "
                'pass that function, or use protocol="standard"'
            )
        return head_of(recipe, loss or cross_entropy)

    def backbone(
        self, model: ModelInit | None = None, *, device: torch.device | str = "cpu"
    ) -> Backbone:
        """The frozen network whose head is trained on a set for heads, with its weights.

        Args:
            model: see `fit`; by default the first one that the set was distilled for.
            device: where it is.

        Raises:
            ValueError: the set is for whole networks, or its backbone has no name.
            BackboneError: the model has no head to train, or its weights cannot be had.

        Warns:
            OtherWeightsWarning: it is one that the set was distilled for, with other weights.
        """
        recipe = self.recipe
        if recipe.trainable != "head":
            raise ValueError("this set trains whole networks, not the head of one; use `fit`")
        name = self._name_of(model)
        if model is None and name is None:
            raise ValueError(
                "`model` must be given: this set was distilled for a network of its author's own, "
                "which has no name; pass that network, or the name of any other"
            )
        recorded = {recipe.model, *(b.model for b in recipe.backbones)}
        # The full path of a folder is what the caller has typed.
        if name in recorded and name and (model is None or not Path(name).is_absolute()):
            self._check_recorded(name)
        given = name if name is not None else model
        if callable(given) and not isinstance(given, nn.Module):
            given = given()
        if not isinstance(given, (str, nn.Module)):
            raise ValueError(
                "`model` must be a name, a network or a function that makes one, got "
                f"{type(given).__name__}; of several networks pass one at a time"
            )
        made, noted = self._loaded(given, device)
        if noted is not None and noted.fingerprint != made.fingerprint:
            warnings.warn(
                f"the weights of {name!r} are others than those that this set was distilled with "
                f"(fingerprint {made.fingerprint[:12]}, then {noted.fingerprint[:12]}), so the "
                "accuracy on the card is not theirs",
                OtherWeightsWarning,
                stacklevel=2,
            )
        return made

    def _check_recorded(self, name: str) -> None:
        """See that a backbone named by the record is no file here and not larger than allowed."""
        check_recorded_backbone(name)
        if not name.startswith(LITE_PREFIX):
            factory_from(name, {}, from_record=True, max_parameters=self._limits.max_parameters)

    def _loaded(
        self, given: str | nn.Module, device: torch.device | str
    ) -> tuple[Backbone, BackboneRecord | None]:
        """A backbone as the record has it, and what the record says of its name.

        Networks without a name are known by their weights.
        """
        options: dict[str, Any] = {"device": device, "dtype": self.images.dtype}

        def load(noted: BackboneRecord, revision: str | None = None) -> Backbone:
            scale = Normalization(noted.mean, noted.std)
            layer = noted.feature_layer
            return load_backbone(
                given, feature_layer=layer, revision=revision, normalization=scale, **options
            )

        for noted in self.recipe.backbones:
            if isinstance(given, str) and noted.model == given:
                return load(noted, noted.revision), noted
        nameless = [b for b in self.recipe.backbones if b.model is None]
        known = nameless if isinstance(given, str) else list(self.recipe.backbones)
        if known:
            with suppress(BackboneError):  # without the layer it is another network
                made = load(known[0])
                for noted in known:
                    if noted.fingerprint == made.fingerprint:
                        made.normalization = Normalization(noted.mean, noted.std)
                        return made, None
        if isinstance(given, str) or not nameless:
            return load_backbone(given, **options), None
        # Perhaps the author's network with other weights: it may not say what it takes.
        options["normalization"] = Normalization.from_model(
            given, channels=3, fetch=True
        ) or Normalization(nameless[0].mean, nameless[0].std)
        layer = nameless[0].feature_layer
        if layer and layer in dict(given.named_modules()):
            with suppress(BackboneError):  # another network, with a layer of the same name
                return load_backbone(given, feature_layer=layer, **options), None
        return load_backbone(given, **options), None

    def new_network(
        self, model: ModelInit | None = None, *, seed: int = 0, protocol: Protocol = "auto"
    ) -> nn.Module:
        """The network that `fit` trains, before it is trained.

        Args:
            model: see `fit`.
            seed: see `fit`.
            protocol: see `fit`.

        Raises:
            ValueError: the set's own network has no name; or the set is for the heads of pretrained
                networks, which are not made anew.
            ModelLoadError: no model of that name.
        """
        recipe, name = self.recipe, self._name_of(model)
        if recipe.trainable == "head":
            raise ValueError(
                "this set trains the head of a pretrained network, which is not made anew; use "
                "`backbone` for the frozen network, or `fit` for the network with its head"
            )
        if model is None and recipe.model is None:
            network = self._record.about.network
            kind, size = network.class_name, network.parameters
            like = f" (its class {kind!r:.80}, trained parameters {size!r:.20})" if kind else ""
            raise ValueError(
                "`model` must be given: this set was distilled for a network of its author's own, "
                f"which has no name{like}; pass a function that makes such a network, or another "
                'network with protocol="standard"'
            )
        own = self._own(name)
        if own is None:
            return fresh_network(model, seed, recipe.num_classes, recipe.shape)  # type: ignore[arg-type]
        noted = recipe.architectures[own]
        arguments = dict(noted.model_args)
        if self.initial and self.protocol_for(protocol, model) == "recipe":
            arguments.pop("pretrained", None)
        return fresh_network(
            noted.model,  # type: ignore[arg-type]
            seed,
            recipe.num_classes,
            recipe.shape,
            arguments,
            from_record=True,
            max_parameters=self._limits.max_parameters,
        )

    def _own(self, name: str | None) -> int | None:
        """The place of a name among the networks of the set; None where it is none of them.

        Of two with the same name and different arguments it is the first, unless the name has the
        number that tables put behind it.
        """
        labels = self.recipe.network_labels
        names = [one.model for one in self.recipe.architectures]
        named = {label: place for place, label in enumerate(labels) if names[place] is not None}
        named |= {one: names.index(one) for one in names if one is not None}
        return None if name is None else named.get(name)

    def _place_of(self, model: ModelInit | None, network: nn.Module) -> int | None:
        """The place of a network among those of the set; None where the weights must tell it."""
        if model is None or len(self.recipe.architectures) == 1:
            return 0
        own = self._own(self._name_of(model))
        if own is not None or not self.initial:
            return own
        shapes = {n: t.shape for n, t in network.state_dict().items()}
        for place in range(len(self.recipe.architectures)):
            start = self.recipe.of_network(place, self.initial)
            if all(shapes.get(name) == t.shape for name, t in start.items()):
                return place
        return 0

    @torch.no_grad()
    def predict(self, model: nn.Module, images: Any, *, top: int | None = None) -> Any:
        """What a network says of images, which are prepared as those that it was trained on.

        Args:
            model: what `fit` gave; it is put into eval mode.
            images: a Pillow image, a path, an array or a tensor, or a list of these.
            top: classes that are told, the most probable ones; by default all.

        Returns:
            A dictionary from class name to probability, most probable first; of a list of images,
            a list of these.

        Raises:
            DataError: something is no image.
            ValueError: the network was not trained on this set.
        """
        several = isinstance(images, (list, tuple))
        channels, height, width = self.recipe.shape
        pixels = [
            torch.from_numpy(read_pixels(one, row, size=(height, width), channels=channels))
            for row, one in enumerate(images if several else [images])
        ]
        like = next(model.parameters())
        batch = torch.stack(pixels).permute(0, 3, 1, 2).to(like.device, like.dtype) / 255
        if self.recipe.trainable == "head":
            if model not in self._backbones:
                self._backbones[model], _ = self._loaded(model, like.device)
            batch = self._backbones[model].network_input(batch)
        else:
            batch = self._synthetic.transform.to(like.device)(batch)
        model.eval()
        logits = logits_of(model(batch)).float()
        if logits.dim() != 2 or logits.shape[1] != len(self.class_names):
            raise ValueError(
                f"`model` must be what `fit` gave, with {len(self.class_names)} outputs for an "
                f"image, got one with {logits.shape[-1]}; train it with `fit` first"
            )
        probabilities = logits.softmax(1).cpu()
        told = []
        for row in probabilities:
            order = row.argsort(descending=True)[:top]
            told.append({self.class_names[i]: float(row[i]) for i in order.tolist()})
        return told if several else told[0]

    def evaluate(
        self,
        model: ModelInit | None = None,
        dataset: Any = None,
        *,
        split: str | None = None,
        networks: int = 5,
        seed: int | None = None,
        protocol: Protocol = "auto",
        pixels: PixelKind = "exact",
        device: torch.device | str = "cpu",
        batch_size: int = 500,
        loss: Loss | None = None,
    ) -> Scores:
        """Accuracy of fresh networks trained on the set, in eval mode.

        Without ``seed`` the networks are those whose accuracies are on the card.

        Args:
            model: see `fit`; by default what the set was distilled for, or the first of several.
            dataset: real images: `RealData`, or what `dd_plugin.data.load_real` takes; by default
                the data set that the results on the card were taken on.
            split: of the data set; by default that of the card, or else ``"test"``.
            networks: how many; one where the initialisation is fixed and all would be the same.
            seed: of which the networks' seeds are functions.
            protocol: see `fit`.
            pixels: see `fit`.
            device: where to train and test.
            batch_size: test images at a time; without effect on the result.
            loss: see `fit`.

        Raises:
            DataError: the real images cannot be had, or do not fit.
            ValueError: see `fit`.
            DivergedError: see `fit`.
        """
        if networks < 1:
            raise ValueError(f"`networks` must be at least 1, got {networks}")
        data = self.real_data(dataset, split, device=device)
        if self.recipe.trainable == "head":
            test = self.head_test(model, data, device=device, loss=loss, protocol=protocol)
            return Scores((test.distilled(self.synthetic(pixels, device)),))
        if self.initial and self.protocol_for(protocol, model) == "recipe":
            networks = 1
        found: list[float] = []
        for one in self.seeds(networks, seed):
            with warnings.catch_warnings():
                if found:  # said once is enough
                    warnings.simplefilter("ignore", OtherArchitectureWarning)
                network = self.fit(
                    model, seed=one, protocol=protocol, pixels=pixels, device=device, loss=loss
                )
            found.append(accuracy_of_module(network, self.test_batches(data, batch_size)))
        return Scores(tuple(found))

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
        """What tests heads on a backbone that are trained on this set, or on real images.

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
        as_probe = self.protocol_for(protocol, model) == "standard"
        head = head_of(self.recipe) if as_probe else self._head(loss)
        backbone = self.backbone(model, device=device) if backbone is None else backbone.to(device)
        seen = None if train is None else features_of(backbone, train, folder=folder)
        found = features_of(backbone, test, folder=folder)
        return HeadTest(backbone, head, seen, found, as_probe=as_probe, images=train)

    def synthetic(self, pixels: PixelKind, device: torch.device | str = "cpu") -> SyntheticSet:
        """The set as networks are trained on it."""
        return self._as(pixels).to(device)

    def seeds(self, networks: int, seed: int | None = None) -> list[int]:
        """The seeds of an evaluation's networks; by default those of the card, and more."""
        of_the_run = self._record.about.config.seed
        base = seed if seed is not None else of_the_run or 0
        seeds = [network_seed(base, index) for index in range(networks)]
        if seed is None:
            recorded = self._record.distilled.seeds[:networks]
            seeds[: len(recorded)] = recorded
        return seeds

    def real_data(
        self, dataset: Any = None, split: str | None = None, *, device: torch.device | str = "cpu"
    ) -> RealData:
        """Real images as this set's networks see them: same classes, channels and size.

        Args:
            dataset: see `evaluate`.
            split: see `evaluate`.
            device: where they are kept.

        Raises:
            DataError: they cannot be had, or do not fit.
            ValueError: the card does not say which data set.
        """
        if isinstance(dataset, RealData):
            found = (dataset.shape, tuple(dataset.class_names))
            if found != (self.recipe.shape, self.class_names):
                raise DataError(
                    f"the real images are {found[0]} with classes {list(found[1])[:10]}, those of "
                    f"this set {self.recipe.shape} with {list(self.class_names)[:10]}; give the "
                    "data set itself, or make both alike"
                )
            return dataset
        protocol = self._record.protocol
        source = protocol.dataset if dataset is None else dataset
        if source is None:
            raise ValueError(
                "`dataset` must be given: the record of this set does not say which real images it "
                "was evaluated on; name them (`--dataset` on the command line)"
            )
        if split is None:
            split = protocol.split or "test"
        channels, height, width = self.recipe.shape
        by_name = isinstance(source, (str, Path, dict))
        return load_real(
            source,
            split if by_name else None,
            image_size=(height, width),
            channels=channels,
            class_names=list(self.class_names),
            device=device,
            white_level=self._record.source.white_level,
        )

    def test_batches(self, data: RealData, size: int) -> InputBatches:
        """Real images as network input, in batches."""
        transform = self._synthetic.transform.to(data.device)
        return InputBatches(data, transform, self.images.dtype, size)

    def prepare(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Real images as this set's networks are trained on them: augmented network input."""
        synthetic = self._synthetic
        transform = synthetic.transform.to(images.device)
        return transform(synthetic.augmentation(images.to(self.images.dtype), seed)), labels

    def _name_of(self, model: ModelInit | None) -> str | None:
        return self.recipe.model if model is None else model if isinstance(model, str) else None

    def protocol_for(
        self, protocol: Protocol, model: ModelInit | None
    ) -> Literal["recipe", "standard"]:
        """What ``protocol="auto"`` of `fit` means for a network."""
        if protocol not in ("auto", "recipe", "standard"):
            raise ValueError(f'`protocol` must be "auto", "recipe" or "standard", got {protocol!r}')
        if protocol != "auto":
            return protocol
        if self.recipe.trainable == "head":
            return "recipe"
        name = self._name_of(model)
        return "standard" if name is not None and self._own(name) is None else "recipe"

    def _as(self, pixels: PixelKind) -> SyntheticSet:
        if pixels not in ("exact", "png"):
            raise ValueError(f'`pixels` must be "exact" or "png", got {pixels!r}')
        chosen = copy.deepcopy(self._synthetic)
        if pixels == "png":
            exact = self.images
            chosen.parametrization = Pixels((to_bytes(exact) / 255).to(exact.dtype))
            chosen.requires_grad_(False)
        return chosen

    # Elsewhere.

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the set's files into a folder, byte for byte, in the place of a set that is there.

        Raises:
            OSError: it cannot be written; it is as it was then.
            PushError: a file of the set is missing, or is a link out of its folder.
            ValueError: it is the folder that the set is in, or has files of the same names that
                are not a set's.
        """
        target = Path(folder)
        if target.exists() and target.resolve() == self.folder.resolve():
            raise ValueError(f"{str(folder)!r} is where this set is already; choose another folder")
        files = published_paths(self.folder)
        check_replaceable(target, "folder")
        # The record comes last, whose checksums tell a set from half of one.
        ordered = sorted(files, key=lambda name: name == RECORD)
        with instead_of_the_set_in(target):
            write_together(target, {name: files[name] for name in ordered})
            for name in PUBLISHED:
                if "*" not in name and name not in files:  # of another set
                    (target / name).unlink(missing_ok=True)
        return target

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = False,
        token: str | bool | None = None,
        **options: Any,
    ) -> PushResult:
        """Publish the set as a data set of the Hub, in one commit.

        Args:
            repo_id: ``"name"`` or ``"namespace/name"``; it is made where there is none.
            private: make a new repository private. One that exists stays as it is.
            token: None or True for the one of the environment or of `hf auth login`.
            **options: the others of `dd_plugin.hub.remote.push.push_folder`, such as ``revision``,
                ``create_pr`` and ``license``.

        Raises:
            PushError: the Hub does not take it; see `dd_plugin.hub.remote.push.push_folder`.
        """
        options = {**options, "private": private or None, "token": token}
        return push_folder(self.folder, repo_id, **options)

    def export_image_folder(self, folder: str | Path) -> None:
        """Write the images as PNG files, one folder per class."""
        export_image_folder(Path(folder), self.images, self.labels, self.class_names)

    def export_dd_ranking(self, folder: str | Path, *, dataset: str | None = None) -> None:
        """Write the three files that DD-Ranking is given; see `dd_plugin.hub.exports`.

        Args:
            folder: new or empty.
            dataset: DD-Ranking's name of the real data, such as ``"CIFAR10"``, whose normalisation
                it tests with; without, images are written as this set's own networks see them.

        Warns:
            UserWarning: the set was distilled for another optimizer than SGD, of which DD-Ranking
                takes the step size in ``lr.pt`` to be.

        Raises:
            ValueError: learned labels that are no probabilities, or a folder that holds something.
            OSError: the folder cannot be written; then nothing is left of it.
        """
        synthetic, optimizer = self._synthetic, self.recipe.optimizer
        if synthetic.label_form == "weights":
            raise ValueError(
                "DD-Ranking takes labels that are probabilities, and this set was distilled with "
                '`label_form: weights`; distil with "probabilities", or export an image folder'
            )
        images = self.images if dataset else synthetic.transform(self.images)
        step_size = float(self.step_sizes.mean())
        export_dd_ranking(
            Path(folder), images, self.labels, self.soft_labels, step_size, dataset=dataset
        )
        if optimizer != "sgd":
            warnings.warn(
                f"lr.pt must be a step size of SGD for DD-Ranking, got one of {optimizer}, for "
                f"which this set was distilled; have its evaluator train with {optimizer}, or "
                "leave `syn_lr` out, and it searches a step size",
                stacklevel=2,
            )
