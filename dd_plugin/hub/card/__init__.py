"""The card of a distilled set, from its record.

Below `folder`, which writes it beside the set. The words are in ``words.md``; `text` puts the whole
together from the sections of the other modules; `merge` keeps what others wrote into a card.
"""

from dd_plugin.hub.card.text import make_card

__all__ = ["make_card"]
