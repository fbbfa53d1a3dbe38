"""The images of a run over time: frames kept at each evaluation, and an animated picture of them.

Beside `report`, which writes the picture. Frames are files in a hidden folder of the run, so that
they survive a resume. There are never more than `MOST_FRAMES` of them, spread over the whole run:
where there would be more, the one goes whose neighbors are closest to each other.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Final

import torch

from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.files import write_whole
from dd_plugin.hub.folder import grid

FRAMES: Final = ".course"
MOST_FRAMES: Final = 40
# Of a frame: classes, images of each, and pixels of its longer side.
_COLUMNS, _ROWS, _SIDE = 10, 5, 640
_STRIP = 18
# Milliseconds of a frame, and of the last one.
_PAUSE, _LAST_PAUSE = 350, 2000
_NAME = re.compile(r"(\d{9})\.png")


def keep_frame(folder: Path, step: int, synthetic: SyntheticSet) -> None:
    """Keep the images as they are at an outer step; frames of later steps are removed.

    Args:
        folder: of the run.
        step: the outer steps done.
        synthetic: the set.

    Raises:
        OSError: the frame cannot be written.
    """
    forget_frames(folder, step)
    content = io.BytesIO()
    _picture(synthetic).save(content, "PNG")
    write_whole(folder / FRAMES / f"{step:09d}.png", content.getvalue())
    kept = _frames(folder)
    while len(kept) > MOST_FRAMES:
        least = min(range(1, len(kept) - 1), key=lambda i: kept[i + 1][1] - kept[i - 1][1])
        kept.pop(least)[0].unlink()


def forget_frames(folder: Path, step: int) -> None:
    """Remove the frames of later steps: of a run that went back, or of another run.

    Raises:
        OSError: one cannot be removed.
    """
    for path, other in _frames(folder):
        if other > step:
            path.unlink()


def last_frame(folder: Path) -> int | None:
    """Return the outer step of the newest frame; None without one."""
    kept = _frames(folder)
    return kept[-1][1] if kept else None


def animation(folder: Path) -> bytes | None:
    """Return the frames of a run as an animated WebP; None with fewer than two.

    Raises:
        OSError: a frame cannot be read.
    """
    from PIL import Image

    kept = _frames(folder)
    if len(kept) < 2:
        return None
    frames = [Image.open(path) for path, _ in kept]
    # Of one size, whatever is in the folder.
    size = max(frame.width for frame in frames), max(frame.height for frame in frames)
    steps = [step for _, step in kept]
    pictures = [_captioned(*each, size) for each in zip(frames, steps, strict=True)]
    content = io.BytesIO()
    pictures[0].save(
        content,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=[_PAUSE] * (len(pictures) - 1) + [_LAST_PAUSE],
        loop=0,
        quality=80,
        method=2,
    )
    return content.getvalue()


def _frames(folder: Path) -> list[tuple[Path, int]]:
    """Return the frames and their steps, oldest first."""
    frames = folder / FRAMES
    if not frames.is_dir():
        return []
    matches = [(path, _NAME.fullmatch(path.name)) for path in sorted(frames.iterdir())]
    return [(path, int(match[1])) for path, match in matches if match]


def _picture(synthetic: SyntheticSet) -> Any:
    """Return the first images of the first classes, a class per column."""
    from PIL import Image

    classes = min(synthetic.recipe.num_classes, _COLUMNS)
    of_class = [torch.nonzero(synthetic.labels == c).flatten()[:_ROWS] for c in range(classes)]
    rows = min(map(len, of_class))
    places = torch.stack([each[: max(rows, 1)] for each in of_class if len(each)], 1).flatten()
    images = synthetic.images().detach()[places]
    picture = grid(images, classes, max(1, 64 // synthetic.recipe.shape[-1]))
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return picture


def _captioned(picture: Any, step: int, size: tuple[int, int]) -> Any:
    """Return a frame of a size with its step below."""
    from PIL import Image, ImageDraw

    width, height = size
    framed = Image.new("RGB", (max(width, 80), height + _STRIP), "white")
    framed.paste(picture, (0, 0))
    ImageDraw.Draw(framed).text((4, height + 3), f"step {step:,}", fill="black")
    return framed
