"""Augmentations by their names, which settings and recipes spell in one text.

Read by `augmentation`, which does them, and by the checks of settings, which need no torch for it.
"""

from __future__ import annotations

from dd_plugin.text import suggestion

NAMES = (
    "color", "crop", "cutout", "flip", "noise", "resizedcrop", "rotate", "scale", "shift",
)  # fmt: skip
SHORTHANDS = {"dsa": "color_crop_cutout_flip_scale_rotate"}


def augmentation_names(text: str) -> tuple[str, ...]:
    """Return the names in a text, such as ``"flip_rotate"``; see `Augmentation`.

    Raises:
        ValueError: a name that there is not, one twice, or ``_`` beside ``+``.
    """
    names = text.strip().lower()
    names = SHORTHANDS.get(names, names)
    if names in ("", "none"):
        return ()
    if "+" in names and "_" in names:
        raise ValueError(
            "augmentation must be joined either by '_', to do one at a time, or by '+', to do all, "
            f"got {names!r}"
        )
    parts = names.split("+" if "+" in names else "_")
    for name in parts:
        if name not in NAMES:
            meant = suggestion(name, NAMES, quoted=True)
            hint = f" ({meant})" if meant else ""
            raise ValueError(
                f"augmentation must be made of {', '.join(NAMES)}, joined by "
                f"'_' or '+', or be 'dsa' or 'none', got {name!r}{hint} in {names!r}"
            )
    if len(set(parts)) < len(parts):
        raise ValueError(f"augmentation must name each transformation once, got {names!r}")
    return tuple(parts)
