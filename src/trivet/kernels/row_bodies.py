"""The source of the row kernels. Names in capitals are constants of a compiled module, `$NAMES` are filled in as text.

Notation: z a logit, peak the largest of its row, e = exp(z - peak), g the log odds against the label.
"""

from __future__ import annotations

__all__ = ["COMMON", "DECAY", "EVERY", "SURVEY"]

COMMON = """
real = $COMPUTE
integer = np.$INTEGER
ZERO, ONE = real(0.0), real(1.0)
LOWEST = real(np.finfo(np.$COMPUTE).min)
SIGN, MAGNITUDE = integer($SIGN), integer(np.iinfo(integer).max)
FAR = real(-1e30)
BLOCK = 4096

# Sums of at most BLOCK terms may change their order, so that they become vectors; blocks are added in float64.
block_sum = njit(fastmath={"contract", "nsz", "arcp", "reassoc"}, forceinline=True, error_model="numpy")


@rule_function
def logit(z, at, k, offset, scale):
    # A class's own change of its logit; one that is masked (-inf) stays masked.
    return scale * ($LOAD(z[at]) + offset[k]) if ADJUSTED else $LOAD(z[at])


@rule_function
def entry(t, at, k, offset, scale):
    # The same of the second matrix, which may be of another type: a teacher's logit, or a share as it is.
    return scale * ($TLOAD(t[at]) + offset[k]) if ADJUSTED else $TLOAD(t[at])


@rule_function
def drop(peak, z):
    # How far below the peak; a masked class is put at no distance, since it takes no part.
    return peak - z if z > -np.inf else ZERO


@rule_function
def ahead(share, x, peak, z):
    # A teacher's x against peak - z; where its share is 0 there is nothing to say, not even about infinities.
    return x + (peak - z) if share > ZERO else ZERO


$DECAY


@rule_function
def odds(total, own):
    # No finite number is lost by the bound: beyond exp(-104) the others add nothing to any sum.
    g = xp.log(total) - own
    return FAR if g < FAR else g


@rule_function
def over(top, bottom):
    return ZERO if bottom == ZERO else top / bottom


@rule_function
def row_weight(row, label, ignore, row_weights):
    weight = row_weights[row] if row_weights.size else ONE
    return weight if label != ignore else ZERO
"""

DECAY = {
    "float32": """
EXP_NORMAL = real(-87.33654)  # log of the smallest normal number


# exp(x) for x <= 0, which is all that a row asks for: 2.5 times faster than `xp.exp`, since nothing overflows, and what
# is smaller than the smallest normal number becomes 0.
@rule_function
def decay(x):
    bounded = EXP_NORMAL if x < EXP_NORMAL else x
    shifted = bounded * xp.LOG2_E + xp.ROUND
    n = shifted - xp.ROUND
    r = (bounded - n * xp.LN2_HIGH) - n * xp.LN2_LOW
    tail = r * r * (xp.E2 + r * (xp.E3 + r * (xp.E4 + r * (xp.E5 + r * (xp.E6 + r * xp.E7)))))
    # The last bits of `shifted` hold n: moved into the exponent they are 2**n.
    power = integer(integer(np.float32(shifted).view(np.int32) + integer(127)) << integer(23)).view(np.float32)
    return ZERO if x < EXP_NORMAL else (ONE + (r + tail)) * power
""",
    "float64": """
@rule_function
def decay(x):
    return xp.exp(x)
""",
}

EVERY = """
@threaded
def every(logits, gradient, labels, matrix, weights, row_weights, offset, handicap, values, upstream, per_row,
          classes, inner, width, ignore_index, factor, smoothing, scale$NUMBERS, parts, bounds):
    for part in prange(bounds.size - 1):
        parts[part] = some(logits, gradient, labels, matrix, weights, row_weights, offset, handicap, values,
                           upstream, per_row, classes, inner, width, ignore_index, factor, smoothing,
                           scale$NUMBERS, bounds[part], bounds[part + 1])
"""

SURVEY = """
@kernel
def some(labels, weights, row_weights, classes, ignore_index, begin, end):
    label_of = view_int64(labels, end)
    weight_of = view_COMPUTE(weights, classes if weights else 0)
    weight_of_row = view_COMPUTE(row_weights, end if row_weights else 0)
    lowest, highest, kept = classes, -1, 0
    for row in range(begin, end):
        label = label_of[row]
        counts = label != ignore_index
        kept += counts
        lowest = min(lowest, label) if counts else lowest
        highest = max(highest, label) if counts else highest
    sound = lowest >= 0 and highest < classes
    weight = float64(kept)
    if (weights or row_weights) and sound:
        weight = 0.0
        for row in range(begin, end):
            label = label_of[row]
            if label != ignore_index:
                own = weight_of[label] if weights else weight_of_row[row]
                weight += own * weight_of_row[row] if weights and row_weights else own
    return weight, lowest, highest


@threaded
def every(labels, weights, row_weights, classes, ignore_index, parts, bounds):
    for part in prange(bounds.size - 1):
        weight, lowest, highest = some(labels, weights, row_weights, classes, ignore_index, bounds[part],
                                       bounds[part + 1])
        parts[part, 0], parts[part, 1], parts[part, 2] = weight, lowest, highest
"""
