"""`DistillerConfig`: everything about a distillation run that is a plain value.

First in the flow of the trainer: the command line and YAML files fill it, `distiller` reads it.
Names are those of `transformers.TrainingArguments` where it has the same thing. The fields stand in
`settings`; what can be checked without data or model is checked by `setting_checks`, before any
work.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, get_type_hints

from dd_plugin.distiller.baseline_names import baseline_names
from dd_plugin.distiller.by_data import Arguments, is_left_alone, marked, plain
from dd_plugin.distiller.coercion import coerced
from dd_plugin.distiller.json_settings import dictionary, model_arguments
from dd_plugin.distiller.setting_checks import (
    check_combinations,
    check_inner_optimizer,
    check_values,
    warn_of_no_effect,
)
from dd_plugin.distiller.setting_groups import DEFAULT_ARGUMENTS, DEFAULT_MODEL
from dd_plugin.distiller.settings import SECRETS, Settings
from dd_plugin.distiller.unknown_names import answering_settings
from dd_plugin.recipes import recipe_settings

# Schedules that are the same however many steps there are.
ENDLESS_SCHEDULES = ("constant", "constant_with_warmup")
# The names of networks that there are with their weights only.
_WITH_WEIGHTS = "lite/"


@answering_settings
@dataclass
class DistillerConfig(Settings):
    """The settings of a run; each has a default that works.

    The defaults distill scikit-learn's handwritten digits on a CPU in a minute or two. On other
    data, some of those that are left out are chosen by the data; `Distiller.config` has what came
    out. The settings of published methods are recipes, see `from_recipe`.

    Raises:
        TypeError: there is no setting of a name; it says what to write instead.
        ValueError: a value is not possible, or two do not go together.
    """

    def __post_init__(self) -> None:
        self._coerce()
        is_plain = self.dataset == "digits" and self.has_default_model and self.image_size is None
        if self.model_args is None and is_plain:
            # As `defaults` has them for these images.
            self.model_args = Arguments(DEFAULT_ARGUMENTS)
        if not is_left_alone(self.model_args):
            self.model_args = model_arguments(self.model_args, len(self.models))
        if is_left_alone(self.trainable):
            self.trainable = marked("head" if self._names_pretrained_weights else "all")
        self.inner_optimizer_args = dictionary(self.inner_optimizer_args, "inner_optimizer_args")
        check_values(self)
        check_combinations(self)
        check_inner_optimizer(self)
        warn_of_no_effect(self)

    @classmethod
    def from_recipe(cls, name: str, **overrides: Any) -> DistillerConfig:
        """Return the settings of a recipe of ``dd_plugin.recipes``.

        Args:
            name: of the recipe; `dd-plugin distill recipe:` lists them.
            overrides: settings that take the place of the recipe's.

        Raises:
            ValueError: there is no recipe of that name, or the settings are not possible.
        """
        # A recipe is all of its settings: those that it leaves out are not chosen by the data.
        defaults = {n: plain(value) for n, value in vars(Settings()).items()}
        config = cls(**{**defaults, **recipe_settings(name), **overrides})
        vars(config)["recipe_name"] = name
        return config

    @property
    def recipe_name(self) -> str | None:
        """The name of the recipe that the settings come from, or None; see `from_recipe`."""
        return vars(self).get("recipe_name")

    @property
    def _names_pretrained_weights(self) -> bool:
        """Whether the networks are named with weights, and no setting is of their training."""
        of_training = self.init != "random" or self.window != "full" or self.batching != "all"
        of_training |= self.step_sizes == "per_layer" or self.normalization == "zca"
        if of_training or isinstance(self.model_args, list):
            return False
        has_weights = self.model_args == {"pretrained": True}
        return bool(self.models) and all(
            has_weights or name.startswith(_WITH_WEIGHTS) for name in self.models
        )

    def _coerce(self) -> None:
        """Convert words that YAML does not read as values (1e-3, "false"), by the fields' types."""
        trackers: Any = self.report_to
        self.report_to = [trackers] if isinstance(trackers, str) else list(trackers or [])
        models: Any = self.model
        self.model = [models] if isinstance(models, str) else list(models or [])
        if not is_left_alone(self.baselines):
            self.baselines = baseline_names(self.baselines)
        # Not the types of `fields`: a parser of arguments puts others in their place.
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            setattr(self, name, coerced(name, value, hint, secret=name in SECRETS))

    def with_model(self, *names: str) -> DistillerConfig:
        """Return the same settings for other networks, without the default's arguments."""
        arguments = self.model_args
        if self.has_default_arguments and names != (DEFAULT_MODEL,):
            arguments = None
        config = replace(self, model=list(names), model_args=arguments)
        vars(config)["recipe_name"] = self.recipe_name
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON has them, without the token; one network as its name."""
        values = {name: plain(v) for name, v in asdict(self).items() if name not in SECRETS}
        models = list(self.models)
        return {**values, "model": models[0] if len(models) == 1 else models}
