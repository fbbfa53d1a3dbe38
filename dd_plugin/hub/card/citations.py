"""The papers whose methods a distilled set was made with.

Used by `text`. Which of them a set has to cite follows from its record alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dd_plugin.data.stored_sizes import PYRAMIDS, UPSAMPLED
from dd_plugin.hub.record import Record


class Paper(NamedTuple):
    """A paper, and the method of it that is used here."""

    key: str
    method: str
    authors: tuple[str, ...]
    title: str
    year: int
    arxiv: str
    venue: str | None = None

    def line(self) -> str:
        """Return one line of a list, in Markdown."""
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
        """Return the BibTeX entry."""
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
    key="wang2018dataset",
    method="dataset distillation",
    authors=("Wang, Tongzhou", "Zhu, Jun-Yan", "Torralba, Antonio", "Efros, Alexei A."),
    title="Dataset Distillation",
    year=2018,
    arxiv="1811.10959",
)
RAT_BPTT = Paper(
    key="feng2024embarrassingly",
    method="random window of differentiated steps",
    authors=("Feng, Yunzhen", "Vedantam, Ramakrishna", "Kempe, Julia"),
    title="Embarrassingly Simple Dataset Distillation",
    year=2024,
    arxiv="2311.07025",
    venue="ICLR",
)
AT_BPTT = Paper(
    key="li2025beyond",
    method="window that adapts to the speed of training",
    authors=(
        "Li, Muquan",
        "Gou, Hang",
        "Zhang, Dongyang",
        "Liang, Shuang",
        "Xie, Xiurui",
        "Ouyang, Deqiang",
        "Qin, Ke",
    ),
    title="Beyond Random: Automatic Inner-loop Optimization in Dataset Distillation",
    year=2025,
    arxiv="2510.04838",
)
FREPO = Paper(
    key="zhou2022dataset",
    method="pool of partly trained networks",
    authors=("Zhou, Yongchao", "Nezhadarya, Ehsan", "Ba, Jimmy"),
    title="Dataset Distillation using Neural Feature Regression",
    year=2022,
    arxiv="2206.00719",
    venue="NeurIPS",
)
DSA = Paper(
    key="zhao2021dataset",
    method="differentiable augmentation",
    authors=("Zhao, Bo", "Bilen, Hakan"),
    title="Dataset Condensation with Differentiable Siamese Augmentation",
    year=2021,
    arxiv="2102.08259",
    venue="ICML",
)
IDC = Paper(
    key="kim2022dataset",
    method="more images of lower resolution in the same room",
    authors=(
        "Kim, Jang-Hyun",
        "Kim, Jinuk",
        "Oh, Seong Joon",
        "Yun, Sangdoo",
        "Song, Hwanjun",
        "Jeong, Joonhyun",
        "Ha, Jung-Woo",
        "Song, Hyun Oh",
    ),
    title="Dataset Condensation via Efficient Synthetic-Data Parameterization",
    year=2022,
    arxiv="2205.14959",
    venue="ICML",
)
LGM = Paper(
    key="cazenavette2025dataset",
    method="images as a pyramid of resolutions",
    authors=("Cazenavette, George", "Torralba, Antonio", "Sitzmann, Vincent"),
    title="Dataset Distillation for Pre-Trained Self-Supervised Vision Models",
    year=2025,
    arxiv="2511.16674",
    venue="NeurIPS",
)
LGM_OBJECTIVE = LGM._replace(method="gradients of random heads, as on real images")
SOFT_LABELS = Paper(
    key="sucholutsky2019soft",
    method="learned labels",
    authors=("Sucholutsky, Ilia", "Schonlau, Matthias"),
    title="Soft-Label Dataset Distillation and Text Dataset Distillation",
    year=2019,
    arxiv="1910.02551",
)
STEP_SIZES = Paper(
    key="antoniou2019train",
    method="a step size per step and parameter tensor",
    authors=("Antoniou, Antreas", "Edwards, Harrison", "Storkey, Amos"),
    title="How to train your MAML",
    year=2019,
    arxiv="1810.09502",
    venue="ICLR",
)
MIXFLOW = Paper(
    key="kemaev2025scalable",
    method="gradients through the training, forward over reverse",
    authors=(
        "Kemaev, Iurii",
        "Calian, Dan A.",
        "Zintgraf, Luisa M.",
        "Farquhar, Gregory",
        "van Hasselt, Hado",
    ),
    title="Scalable Meta-Learning via Mixed-Mode Differentiation",
    year=2025,
    arxiv="2505.00793",
)


# Transformations that DSA does not have.
_NOT_OF_DSA = {"", "none", "shift", "noise", "resizedcrop"}


def papers_of(record: Record) -> list[Paper]:
    """Return the papers whose methods a set was made with, that of Wang et al. first.

    Args:
        record: of the set. What it does not say was not used.
    """
    recipe, config = record.recipe, record.about.config
    augmentation = (recipe.augmentation or "none").strip().lower()
    matched = record.matches_gradients
    through_training = recipe.trainable != "head" or (recipe.head == "unroll" and not matched)
    used = {
        RAT_BPTT: config.window == "random",
        AT_BPTT: config.window == "adaptive",
        FREPO: recipe.init == "pool",
        DSA: bool(set(re.split("[_+]", augmentation)) - _NOT_OF_DSA),
        IDC: config.parametrization in UPSAMPLED,
        LGM: config.parametrization in PYRAMIDS and not matched,
        LGM_OBJECTIVE: matched,
        SOFT_LABELS: record.images.soft_labels,
        STEP_SIZES: bool(recipe.step_size_parameters),
        MIXFLOW: config.method == "mixed" and through_training,
    }
    return [DATASET_DISTILLATION, *(paper for paper, is_used in used.items() if is_used)]
