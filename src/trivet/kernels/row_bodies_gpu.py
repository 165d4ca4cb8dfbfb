"""The source of the row kernel for Triton: the formulas of `row_bodies`, a tile of rows and classes to a program.

Notation: x a logit, peak the largest of its row, e = exp(x - peak), g the log odds against the label; `share` is what
-log p of a class counts, `lag` how far the class lies behind the peak. Names in capitals are constants of a launch,
`$NAMES` are filled in as text. A tile is `(ROWS, COLS)`; a row that does not fit is read twice (`WHOLE` is false).
"""

from __future__ import annotations

__all__ = ["CENSUS", "COMMON", "DECAY", "LOWEST", "ROWS"]

LOWEST = {"float32": "-3.4028234663852886e38", "float64": "-1.7976931348623157e308"}

DECAY = {
    "float32": """
@triton.jit
def decay(x):
    # exp(x) for x <= 0; what is smaller than the smallest normal number is 0.
    bounded = tl.where(x < -87.33654, -87.33654, x)
    shifted = bounded * 1.44269504088896341 + 12582912.0
    n = shifted - 12582912.0
    r = (bounded - n * 0.693359375) - n * -2.12194440e-4
    p = 8.3334519073e-3 + r * (1.3981999507e-3 + r * 1.9875691500e-4)
    tail = r * r * (0.5 + r * (1.6666665459e-1 + r * (4.1665795894e-2 + r * p)))
    # The last bits of `shifted` hold n: moved into the exponent they are 2**n.
    power = ((shifted.to(tl.int32, bitcast=True) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(x < -87.33654, 0.0, (1.0 + (r + tail)) * power)
""",
    "float64": """
@triton.jit
def decay(x):
    return tl.exp(x)
""",
}

COMMON = """
@triton.jit
def over(top, bottom):
    return tl.where(bottom == 0.0, 0.0, top / tl.where(bottom == 0.0, 1.0, bottom))


@triton.jit
def start_of(image, first, classes, inner, APART: tl.constexpr):
    # Where a program's tile begins: logits lie as (image, class, position) or as (image, position, class).
    begin = image.to(tl.int64) * classes * inner
    if APART:
        return begin + first
    else:
        return begin + first * classes


@triton.jit
def place_of(p, k, classes, inner, APART: tl.constexpr):
    # Where, after its tile's beginning, position p of class k lies.
    if APART:
        return p + k.to(tl.int64) * inner
    else:
        return p * classes + k


@triton.jit
def largest(x):
    return xp.maximum(tl.max(x, 1), $LOWEST)
"""

CENSUS = """
@triton.jit
def census(labels, weight, row_weight, parts, ignore_index, classes, count, BLOCK: tl.constexpr):
    # What takes part, by weight: each program goes through every so many-th block of rows.
    step = tl.num_programs(0) * BLOCK
    total = tl.zeros([BLOCK], tl.$COMPUTE)
    for begin in range(tl.program_id(0) * BLOCK, count, step):
        row = begin + tl.arange(0, BLOCK)
        counts = row < count
        own = tl.full([BLOCK], 1.0, tl.$COMPUTE)
        if labels is not None:
            label = tl.load(labels + row, counts, other=0)
            counts = counts & (label != ignore_index)
            if weight is not None:
                sound = counts & (label >= 0) & (label < classes)
                own = tl.load(weight + label, sound, other=float("nan"))
        if row_weight is not None:
            own = own * tl.load(row_weight + row, counts, other=0.0)
        total += tl.where(counts, own, 0.0)
    tl.store(parts + tl.program_id(0), tl.sum(total, 0))
"""

ROWS = """
@triton.jit
def read(z, k, inside, classes, offset, by):
    # A logit, changed as its class wants; one that is masked (-inf) stays masked, and so is what lies outside.
    x = tl.load(z, inside, other=float("-inf")).to(tl.$COMPUTE)
    if offset is not None:
        x = x + tl.load(offset + k, k < classes, other=0.0)
    return x * by


@triton.jit
def fetch(
    z, matrix, weight, at, p, live, classes, inner, offset, by,
    APART: tl.constexpr, MATRIX: tl.constexpr, COLS: tl.constexpr,
):
    # The tile of classes from `at` on: logits, entries of the second matrix, class weights.
    k = at + tl.arange(0, COLS)[None, :]
    inside = live[:, None] & (k < classes)
    place = place_of(p[:, None], k, classes, inner, APART)
    x = read(z + place, k, inside, classes, offset, by)
    t, w = x, 1.0
    if MATRIX == "teacher":
        t = read(matrix + place, k, inside, classes, offset, by)
    elif MATRIX == "shares":
        t = tl.load(matrix + place, inside, other=0.0).to(tl.$COMPUTE)
    if weight is not None:
        w = tl.load(weight + k, k < classes, other=0.0)
    return k, inside, place, x, t, w


@triton.jit
def terms(x, t, hit, w, peak, above, keep, even, MATRIX: tl.constexpr):
    seen = x > float("-inf")
    behind = peak[:, None] - x
    e = decay(-behind)
    if MATRIX == "teacher":
        # Where a teacher's share is 0 there is nothing to say, not even about infinities.
        u = t - above[:, None]
        share = decay(u)
        lag = tl.where(share > 0.0, u + behind, 0.0)
    elif MATRIX == "shares":
        share = tl.where(seen, w * (keep * t + even), 0.0)
        lag = tl.where(seen, behind, 0.0)
    else:
        e = tl.where(hit, 0.0, e)
        share = tl.where(seen, w, 0.0)
        lag = tl.where(seen, behind, 0.0)
    return e, share, lag


@triton.jit
def rows(
    z, g, labels, matrix, weight, row_weight, offset, handicap, values, sums, upstream, parts, numbers,
    ignore_index, classes, inner, pieces,
    APART: tl.constexpr, WHOLE: tl.constexpr, MATRIX: tl.constexpr, SMOOTHED: tl.constexpr, PER_ROW: tl.constexpr,
    PARTS: tl.constexpr, ALIGN: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):
    # How far apart lines lie comes divided by ALIGN: so the compiler sees where several numbers can be read at once.
    if APART:
        inner = inner * ALIGN
    else:
        classes = classes * ALIGN
    program = tl.program_id(0)
    image = program // pieces
    first = (program % pieces).to(tl.int64) * ROWS
    p = tl.arange(0, ROWS)
    live = first + p < inner
    row = image.to(tl.int64) * inner + first + p
    start = start_of(image, first, classes, inner, APART)
    z += start
    if matrix is not None:
        matrix += start
    by, keep, even = tl.load(numbers + 2), tl.load(numbers + 3), tl.load(numbers + 4)

    counts, sound, label = live, live, tl.zeros([ROWS], tl.int64)
    if labels is not None:
        label = tl.load(labels + row, live, other=0).to(tl.int64)
        counts = live & (label != ignore_index)
        sound = (label >= 0) & (label < classes)
        label = tl.where(counts & sound, label, 0)
    rate = tl.full([ROWS], 1.0, tl.$COMPUTE)
    if row_weight is not None:
        rate = tl.load(row_weight + row, live, other=0.0)
        counts = counts & (rate != 0.0)

    if WHOLE:
        k, inside, place, x, t, w = fetch(
            z, matrix, weight, 0, p, live, classes, inner, offset, by, APART, MATRIX, COLS
        )
        peak, above = largest(x), largest(t)
        e, share, lag = terms(x, t, label[:, None] == k, w, peak, above, keep, even, MATRIX)
        total, mass, distance = tl.sum(e, 1), tl.sum(share, 1), tl.sum(share * lag, 1)
    else:
        peak = tl.full([ROWS], $LOWEST, tl.$COMPUTE)
        above = tl.full([ROWS], $LOWEST, tl.$COMPUTE)
        total = tl.zeros([ROWS], tl.$COMPUTE)
        mass = tl.zeros([ROWS], tl.$COMPUTE)
        distance = tl.zeros([ROWS], tl.$COMPUTE)
        for at in range(0, classes, COLS):
            k, inside, place, x, t, w = fetch(
                z, matrix, weight, at, p, live, classes, inner, offset, by, APART, MATRIX, COLS
            )
            # Where a higher peak is found, what was added up below the old one moves with it.
            rise = xp.maximum(peak, tl.max(x, 1))
            total = total * decay(peak - rise)
            moved = rise - peak
            fade = tl.full([ROWS], 1.0, tl.$COMPUTE)
            if MATRIX == "teacher":
                higher = xp.maximum(above, tl.max(t, 1))
                fade = decay(above - higher)
                moved = moved + (above - higher)
                above = higher
            distance = tl.where((mass == 0.0) | (fade == 0.0), 0.0, fade * (distance + mass * moved))
            mass = fade * mass
            peak = rise
            e, share, lag = terms(x, t, label[:, None] == k, w, peak, above, keep, even, MATRIX)
            total += tl.sum(e, 1)
            mass += tl.sum(share, 1)
            distance += tl.sum(share * lag, 1)

    factor = tl.load(numbers)
    if parts is not None:
        divisor = tl.sum(tl.load(parts + tl.arange(0, PARTS)), 0)
        factor = tl.where(divisor == 0.0, tl.load(numbers + 1), factor / divisor)
    up = factor * rate * by
    if upstream is not None:
        if PER_ROW:
            up = up * tl.load(upstream + row, live, other=0.0)
        else:
            up = up * tl.load(upstream)
    each = up
    if MATRIX == "":
        own = read(z + place_of(p, label, classes, inner, APART), label, counts, classes, offset, by) - peak
        if handicap is not None:
            own = own - by * tl.load(handicap + label, counts, other=0.0)
        # No finite number is lost by the bound: beyond exp(-104) the others add nothing to any sum.
        odds = xp.log(total) - own
        value, slope = $RULE(tl.where(odds < -1e30, -1e30, odds)$NUMBERS)
        part = tl.full([ROWS], 1.0, tl.$COMPUTE) * keep
        if weight is not None:
            part = part * tl.load(weight + label, counts, other=0.0)
        value = tl.where(part == 0.0, 0.0, part * value)
        scale, mine = over(up * part * slope, total), -(up * part * slope)
        if SMOOTHED:
            e_own = decay(own)
            sum_of_all = total + e_own
            value += even * (distance + mass * xp.log(sum_of_all))
            each = up * even
            every = over(each * mass, sum_of_all)
            scale += every
            mine += every * e_own
        value = tl.where(sound, value, float("nan"))
        scale = tl.where(sound, scale, float("nan"))
    else:
        mine = each
        value = distance + mass * xp.log(total)
        scale = over(up * mass, total)
        if MATRIX == "teacher":
            value = over(value, mass) - xp.log(mass)
            scale, each = over(up, total), over(up, mass)
    value = tl.where(counts, rate * value, 0.0)
    if values is not None:
        tl.store(values + row, value, live)
    if sums is not None:
        tl.store(sums + program, factor * tl.sum(value, 0))

    if g is not None:
        g += start
        if WHOLE:
            d = gradient(e, share, label[:, None] == k, counts, scale, mine, each, MATRIX, SMOOTHED)
            tl.store(g + place, d.to(g.dtype.element_ty), inside)
        else:
            for at in range(0, classes, COLS):
                k, inside, place, x, t, w = fetch(
                    z, matrix, weight, at, p, live, classes, inner, offset, by, APART, MATRIX, COLS
                )
                hit = label[:, None] == k
                e, share, lag = terms(x, t, hit, w, peak, above, keep, even, MATRIX)
                d = gradient(e, share, hit, counts, scale, mine, each, MATRIX, SMOOTHED)
                tl.store(g + place, d.to(g.dtype.element_ty), inside)


@triton.jit
def gradient(e, share, hit, counts, scale, mine, each, MATRIX: tl.constexpr, SMOOTHED: tl.constexpr):
    d = scale[:, None] * e
    if MATRIX == "":
        d = tl.where(hit, mine[:, None], d)
    if SMOOTHED or MATRIX != "":
        d = d - each[:, None] * share
    return tl.where(counts[:, None], d, 0.0)
"""
