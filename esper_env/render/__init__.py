"""Showing an episode: `frame` says what there is to see, `text` and `picture` draw it, `viewer` decides when."""
