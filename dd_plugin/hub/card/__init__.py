"""The words of a distilled set's card, from its record.

Below `folder`, which writes it beside the set. `text` has the whole, the other modules its parts;
`merge` keeps what others have written into a card.
"""

from dd_plugin.hub.card.text import make_card

__all__ = ["make_card"]
