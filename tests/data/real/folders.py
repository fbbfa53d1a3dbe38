"""Folders of one-pixel images, and how many images each class of real data has."""

from PIL import Image


def draw(root, *files):
    """One-pixel images, the i-th of brightness i."""
    for brightness, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower(), "PNG")
        Image.new("L", (1, 1), brightness % 256).save(path, kind)
    return root


def counts_of(real):
    return dict(zip(real.class_names, real.class_counts(), strict=True))
