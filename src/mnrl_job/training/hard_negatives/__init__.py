"""Hard negatives, mined while a model trains."""

# Above so many documents a query is compared with those of the nearest lists of an index, at most this share of all.
MAX_EXACT, INDEXED_SHARE = 1_000_000, 0.05
