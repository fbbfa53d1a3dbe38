"""The papers whose methods a distilled set was made with.

Used by `text`. Which of them a set has to cite follows from its record alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dd_plugin.hub.record import Record


class Paper(NamedTuple):
    """A paper, and what of it is used here."""

    key: str
    method: str
    authors: tuple[str, ...]
    title: str
    year: int
    arxiv: str
    venue: str | None = None

    def line(self) -> str:
        """One line of a list, in Markdown."""
        surnames = [name.split(", ")[0] for name in self.authors]
        if len(surnames) > 3:
            names = f"{surnames[0]} et al."
        elif len(surnames) == 1:
            names = surnames[0]
        else:
            names = ", ".join(surnames[:-1]) + " and " + surnames[-1]
        venue = f", {self.venue}" if self.venue else ""
        address = f"[arXiv:{self.arxiv}](https://arxiv.org/abs/{self.arxiv})"
        return f"- {self.method}: {names}, *{self.title}*{venue}, {self.year}, {address}"

    def bibtex(self) -> str:
        """Its BibTeX entry."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors),
            **({"booktitle": self.venue} if self.venue else {"journal": "arXiv preprint"}),
            "year": str(self.year),
            "eprint": self.arxiv,
            "archivePrefix": "arXiv",
        }
        kind = "inproceedings" if self.venue else "article"
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@{kind}{{{self.key},\n{body}}}"


DATASET_DISTILLATION = Paper(
    "wang2018dataset",
    "dataset distillation",
    ("Wang, Tongzhou", "Zhu, Jun-Yan", "Torralba, Antonio", "Efros, Alexei A."),
    "Dataset Distillation",
    2018,
    "1811.10959",
)
RAT_BPTT = Paper(
    "feng2024embarrassingly",
    "random window of differentiated steps",
    ("Feng, Yunzhen", "Vedantam, Ramakrishna", "Kempe, Julia"),
    "Embarrassingly Simple Dataset Distillation",
    2024,
    "2311.07025",
    "ICLR",
)
FREPO = Paper(
    "zhou2022dataset",
    "pool of partly trained networks",
    ("Zhou, Yongchao", "Nezhadarya, Ehsan", "Ba, Jimmy"),
    "Dataset Distillation using Neural Feature Regression",
    2022,
    "2206.00719",
    "NeurIPS",
)
DSA = Paper(
    "zhao2021dataset",
    "differentiable augmentation",
    ("Zhao, Bo", "Bilen, Hakan"),
    "Dataset Condensation with Differentiable Siamese Augmentation",
    2021,
    "2102.08259",
    "ICML",
)
IDC = Paper(
    "kim2022dataset",
    "more images of lower resolution in the same room",
    (
        "Kim, Jang-Hyun",
        "Kim, Jinuk",
        "Oh, Seong Joon",
        "Yun, Sangdoo",
        "Song, Hwanjun",
        "Jeong, Joonhyun",
        "Ha, Jung-Woo",
        "Song, Hyun Oh",
    ),
    "Dataset Condensation via Efficient Synthetic-Data Parameterization",
    2022,
    "2205.14959",
    "ICML",
)
LGM = Paper(
    "cazenavette2025dataset",
    "images as a pyramid of resolutions",
    ("Cazenavette, George", "Torralba, Antonio", "Sitzmann, Vincent"),
    "Dataset Distillation for Pre-Trained Self-Supervised Vision Models",
    2025,
    "2511.16674",
    "NeurIPS",
)
LGM_OBJECTIVE = LGM._replace(method="gradients of random heads, as on real images")
SOFT_LABELS = Paper(
    "sucholutsky2019soft",
    "learned labels",
    ("Sucholutsky, Ilia", "Schonlau, Matthias"),
    "Soft-Label Dataset Distillation and Text Dataset Distillation",
    2019,
    "1910.02551",
)
STEP_SIZES = Paper(
    "antoniou2019train",
    "a step size per step and parameter tensor",
    ("Antoniou, Antreas", "Edwards, Harrison", "Storkey, Amos"),
    "How to train your MAML",
    2019,
    "1810.09502",
    "ICLR",
)
MIXFLOW = Paper(
    "kemaev2025scalable",
    "gradients through the training, forward over reverse",
    (
        "Kemaev, Iurii",
        "Calian, Dan A.",
        "Zintgraf, Luisa M.",
        "Farquhar, Gregory",
        "van Hasselt, Hado",
    ),
    "Scalable Meta-Learning via Mixed-Mode Differentiation",
    2025,
    "2505.00793",
)


# Transformations that DSA does not have.
_NOT_OF_DSA = {"", "none", "shift", "noise", "resizedcrop"}


def papers_of(record: Record) -> list[Paper]:
    """The papers whose methods a set was made with, that of Wang et al. first.

    Args:
        record: of the set. What it does not say was not used.
    """
    recipe, config = record.recipe, record.about.config
    augmentation = (recipe.augmentation or "none").strip().lower()
    matched = record.matches_gradients
    through_training = recipe.trainable != "head" or (recipe.head == "unroll" and not matched)
    used = {
        RAT_BPTT: config.window == "random",
        FREPO: recipe.init == "pool",
        DSA: bool(set(re.split("[_+]", augmentation)) - _NOT_OF_DSA),
        IDC: config.parametrization == "upsampled",
        LGM: config.parametrization == "pyramid" and not matched,
        LGM_OBJECTIVE: matched,
        SOFT_LABELS: record.images.soft_labels,
        STEP_SIZES: bool(recipe.step_size_parameters),
        MIXFLOW: config.method == "mixed" and through_training,
    }
    return [DATASET_DISTILLATION, *(paper for paper, is_used in used.items() if is_used)]
