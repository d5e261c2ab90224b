"""Special ids: the first 64 rows of every table, with the same meaning in each."""

SPECIALS = 64
PAD, BOS, EOS = 0, 1, 2
SHORTEST = 4  # tokens of the shortest stretch: bos, sentinel, closer, eos
PAIR_OVERHEAD, END_OVERHEAD = 4, 2  # bos + two sentinels + the closer between; closer + eos at a document's end
MAX_VIEWS = 28
RAW_ROWS = SPECIALS + 256  # the raw table: specials, then byte b at 64 + b


def opener(view: int) -> int:
    """The sentinel that opens a stretch of a view (0 is raw)."""
    return 3 if view == 0 else 6 + 2 * view


def closer(view: int) -> int:
    """The sentinel that closes it."""
    return opener(view) + 1
