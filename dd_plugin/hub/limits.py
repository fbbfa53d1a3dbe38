"""The limits of what a stranger's set may take of this machine: `Limits`.

Below `reading`, which checks a folder against them, and `dataset`, which checks the networks of a
recipe. A file of a few kilobytes can ask for images of gigabytes, for years of training, or for the
largest network of timm; here that ends in an error that names the option to raise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final


class DistilledFormatError(ValueError):
    """A folder is not a distilled set, or a damaged one; the message says which file and why."""


# Images that are stored smaller may grow so much in any case: by a factor of four each way.
_ALWAYS_ALLOWED = 16


@dataclass(frozen=True)
class Limits:
    """The options of `DistilledDataset.from_pretrained` that bound what a set may cost.

    Attributes:
        max_bytes: the largest file.
        max_expanded_bytes: images in full size, of a set that stores them smaller. Sixteen times
            what is stored is always allowed.
        max_image_size: the longer side of an image, in pixels.
        max_tensors: tensors in the file of tensors.
        max_steps: training steps.
        max_parameters: of the network that the recipe names.
    """

    max_bytes: int = 16 << 30
    max_expanded_bytes: int = 1 << 30
    max_image_size: int = 4096
    max_tensors: int = 10_000
    max_steps: int = 100_000
    max_parameters: int = 500_000_000

    def check(self, name: str, value: int, what: str, unit: str = "") -> None:
        """Compare a number with the limit of that name.

        Raises:
            DistilledFormatError: it is larger.
        """
        most = getattr(self, name)
        if value > most:
            raise DistilledFormatError(
                f"{what} {value:,}{unit}, over the limit of {most:,}; if that is meant, raise "
                f"`{name}` (`--no_limits` on the command line)"
            )

    def check_expanded(self, stored: int, expanded: int, what: str) -> None:
        """Compare the size of images with what is stored of them.

        Raises:
            DistilledFormatError: it is far larger.
        """
        if expanded > _ALWAYS_ALLOWED * stored:
            self.check("max_expanded_bytes", expanded, f"{what} would have", " bytes in full size")


_ANY: Final = 1 << 62
# For a set of one's own.
UNLIMITED: Final = Limits(**{limit.name: _ANY for limit in fields(Limits)})
