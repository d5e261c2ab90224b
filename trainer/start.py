"""Where lanes stand before the first step: inside of documents, as they would after a long time.

Were all lanes to begin with a document, a run of few rows a lane would read beginnings and little else: licences and
imports.

Legend: L lanes, D documents looked up, A fields of a record, V compressed views.
"""

import numpy as np
from numba import njit

from trainer.ahead import SKIP
from trainer.place import (
    BY_SYMBOLS,
    L_COUNT,
    L_LENGTH,
    L_RAW,
    LANE_FIELDS,
    LAYOUT,
    OFFSET,
    PART,
    VIEW,
    amount,
    anchor_at,
    open_document,
)
from trainer.recipe import COMPRESSED, PAIR_COMPRESSED_FIRST, PAIR_RAW_FIRST, PARALLEL, SWITCH

EARLIER = 1 << 20  # the epoch whose documents these are: its order is no epoch's that is trained on
DOCUMENTS_A_LANE = 64


@njit(cache=True, nogil=True)
def spread(records_DA, draws_D, rates, shares_V, lanes):  # type: ignore[no-untyped-def]
    """Places at equal distances over all symbols of these documents as they would be laid out: (L,) the document, or
    -1 where all are empty, and (L,) the fraction of it before the place.
    """
    which_L, fraction_L = np.full(lanes, -1), np.zeros(lanes)
    lane, ends_D = np.zeros(LANE_FIELDS, np.int64), np.zeros(len(records_DA) + 1, np.int64)
    for d in range(len(records_DA)):
        open_document(lane, records_DA[d], draws_D[d], rates, shares_V)
        ends_D[d + 1] = ends_D[d] + (0 if records_DA[d, SKIP] else amount(lane, BY_SYMBOLS))
    if ends_D[-1] > 0:
        d = 0
        for number in range(lanes):
            at = (number + 0.5) / lanes * ends_D[-1]
            while ends_D[d + 1] <= at:
                d += 1
            which_L[number], fraction_L[number] = d, (at - ends_D[d]) / (ends_D[d + 1] - ends_D[d])
    return which_L, fraction_L


@njit(cache=True, nogil=True)
def enter(lane, fraction):  # type: ignore[no-untyped-def]
    """Let a lane stand behind this fraction of its document, rounded down to where a row can begin."""
    layout, last = lane[LAYOUT], max(0, lane[L_COUNT] - 1)
    if layout in (PAIR_RAW_FIRST, PAIR_COMPRESSED_FIRST):
        lane[OFFSET] = np.int64(fraction * last)
    elif layout == SWITCH:
        first = np.int64(fraction * last)
        lane[PART], lane[OFFSET] = 2 * first, anchor_at(lane, first, 0)
    elif layout == PARALLEL and lane[VIEW] > 0:
        at = np.int64(fraction * (lane[L_RAW] + lane[L_LENGTH]))
        lane[PART] = 1 if at >= lane[L_RAW] else 0
        lane[OFFSET] = at - lane[L_RAW] * lane[PART]
    else:
        lane[OFFSET] = np.int64(fraction * (lane[L_LENGTH] if layout == COMPRESSED else lane[L_RAW]))
