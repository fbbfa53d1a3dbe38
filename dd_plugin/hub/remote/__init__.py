"""A distilled set between its folder and the Hub: where it goes, what is sent, how it comes back.

Above `folder` and `reading`, which know the folder alone.
"""
