"""A distilled set written elsewhere: copied, published, merged, or in the form of another tool.

Between `contents` and `dataset`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dd_plugin.hub.contents import SetContents
from dd_plugin.hub.copying import copy_set
from dd_plugin.hub.exports import export_image_folder, export_set_for_dd_ranking
from dd_plugin.hub.remote.push import PushResult, push_folder


class WrittenSet(SetContents):
    """A distilled set that can be written elsewhere; its own folder stays as it is."""

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the set's files into a folder, byte for byte, in the place of a set that is there.

        Raises:
            OSError: it cannot be written; it is as it was then.
            PushError: a file of the set is missing, or is a link out of its folder.
            ValueError: it is the folder that the set is in, or has files of the same names that
                are not a set's.
        """
        copy_set(self.folder, Path(folder))
        return Path(folder)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = False,
        token: str | bool | None = None,
        **options: Any,
    ) -> PushResult:
        """Publish the set as a data set of the Hub, in one commit.

        Args:
            repo_id: ``"name"`` or ``"namespace/name"``; created where it is missing.
            private: make a new repository private. One that exists stays as it is.
            token: None or True for the one of the environment or of `hf auth login`.
            **options: the others of `dd_plugin.hub.remote.push.push_folder`, such as ``revision``,
                ``create_pr`` and ``license``.

        Raises:
            PushError: the Hub does not take it; see `dd_plugin.hub.remote.push.push_folder`.
        """
        return push_folder(self.folder, repo_id, private=private or None, token=token, **options)

    def export_image_folder(self, folder: str | Path) -> None:
        """Write the images as PNG files, one folder per class."""
        export_image_folder(Path(folder), self.images, self.labels, self.class_names)

    def export_dd_ranking(self, folder: str | Path, *, dataset: str | None = None) -> None:
        """Write the three files that DD-Ranking is given; see `dd_plugin.hub.exports`.

        Args:
            folder: new or empty.
            dataset: DD-Ranking's name of the real data, such as ``"CIFAR10"``, whose normalization
                it tests with; without, images are written as this set's own networks see them.

        Warns:
            UserWarning: the set was distilled for another optimizer than SGD, of which DD-Ranking
                takes the step size in ``lr.pt`` to be.

        Raises:
            ValueError: learned labels that are no probabilities, or a folder that holds something.
            OSError: the folder cannot be written; then nothing is left of it.
        """
        export_set_for_dd_ranking(Path(folder), self._stored.synthetic, dataset=dataset)
