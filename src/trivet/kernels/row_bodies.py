"""The source of the row kernels. Names in capitals are constants of a compiled module, `$NAMES` are filled in as text.

Notation: z a logit, peak the largest of its row, e = exp(z - peak), g the log odds against the label.
"""

from __future__ import annotations

__all__ = ["COMMON", "DECAY", "EVERY", "SURVEY", "TILES", "WIDE"]

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

WIDE = """
@rule_function
def ordered(x):
    # Bits as an integer of the same order, and back: a largest integer is a vector instruction, while a largest
    # float, which must mind NaN, is not.
    bits = np.$COMPUTE(x).view(np.$INTEGER)
    return integer(bits ^ integer(integer(bits >> SIGN) & MAGNITUDE))


@rule_function
def peak_of(z, offset, scale):
    top = ordered(LOWEST)
    for k in range(z.size):
        bits = ordered(logit(z, k, k, offset, scale))
        top = bits if bits > top else top
    return integer(top ^ integer(integer(top >> SIGN) & MAGNITUDE)).view(np.$COMPUTE)


@rule_function
def peak_of_matrix(z, offset, scale):
    top = ordered(LOWEST)
    for k in range(z.size):
        bits = ordered(entry(z, k, k, offset, scale))
        top = bits if bits > top else top
    return integer(top ^ integer(integer(top >> SIGN) & MAGNITUDE)).view(np.$COMPUTE)


@block_sum
def exponentials(z, offset, scale, peak, label, kept, weights):
    total, distance, mass = ZERO, ZERO, ZERO
    for k in range(z.size):
        x = logit(z, k, k, offset, scale)
        e = decay(x - peak)
        e = ZERO if k == label else e
        kept[k] = e
        total += e
        if SMOOTHED:
            w = weights[k] if x > -np.inf else ZERO
            distance += w * drop(peak, x)
            mass += w
    return total, distance, mass


@block_sum
def expectation(z, t, offset, scale, peak, teacher_peak, weights, keep, even, kept, shares):
    total, mass, distance = ZERO, ZERO, ZERO
    for k in range(z.size):
        x = logit(z, k, k, offset, scale)
        e = decay(x - peak)
        if TEACHER:
            u = entry(t, k, k, offset, scale) - teacher_peak
            share = decay(u)
            distance += share * ahead(share, u, peak, x)
        else:
            share = weights[k] * (keep * $TLOAD(t[k]) + even)
            share = share if x > -np.inf else ZERO
            distance += share * drop(peak, x)
        kept[k] = e
        shares[k] = share
        total += e
        mass += share
    return total, mass, distance


@kernel
def some(logits, gradient, labels, matrix, weights, row_weights, offset, handicap, values, upstream, per_row,
         classes, inner, width, ignore_index, factor, smoothing, scale$NUMBERS, begin, end):
    z_rows = $VIEW(logits + begin * classes * $SIZE, (end - begin) * classes)
    g_rows = $VIEW(gradient + begin * classes * $SIZE, (end - begin) * classes if gradient else 0)
    t_rows = $TVIEW(matrix + begin * classes * $TSIZE, (end - begin) * classes if MATRIX else 0)
    label_of = view_int64(labels, 0 if MATRIX else end)
    weight_of = view_$COMPUTE(weights, classes if weights else 0)
    weight_of_row = view_$COMPUTE(row_weights, end if row_weights else 0)
    shift = view_$COMPUTE(offset, classes if offset else 0)
    margin = view_$COMPUTE(handicap, classes if handicap else 0)
    value_of = view_$COMPUTE(values, end if values else 0)
    above = view_$COMPUTE(upstream, (end if per_row else 1) if upstream else 0)
    if ADJUSTED and not offset:
        shift = np.zeros(classes, real)
    if (SMOOTHED or MATRIX) and not weights:
        weight_of = np.ones(classes, real)
    scratch = np.empty(classes, real)
    shares = np.empty(classes if MATRIX else 0, real)
    by = real(scale)
    even = real(smoothing / classes)
    keep = real(1.0 - smoothing)
    result = 0.0
    for row in range(begin, end):
        here = slice((row - begin) * classes, (row - begin + 1) * classes)
        z = z_rows[here]
        g = g_rows[here]
        label = integer(-1) if MATRIX else integer(label_of[row])
        weight = row_weight(row, -1 if MATRIX else label_of[row], -2 if MATRIX else ignore_index, weight_of_row)
        if weight == ZERO:
            if value_of.size:
                value_of[row] = ZERO
            for k in range(g.size):
                g[k] = $STORE(ZERO)
            continue
        kept = $KEPT
        peak = peak_of(z, shift, by)
        rate = real(factor) * weight
        if above.size:
            rate *= above[row if per_row else 0]
        if MATRIX:
            value = one_expected(z, t_rows[here], g, kept, shares, shift, by, peak, weight_of, keep, even, rate)
        else:
            own = (logit(z, label, label, shift, by) - peak)
            if margin.size:
                own -= by * margin[label]
            others, distance, mass = 0.0, 0.0, 0.0
            for at in range(0, classes, BLOCK):
                part = slice(at, at + BLOCK)
                t, d, m = exponentials(
                    z[part], shift[part], by, peak, integer(label - at), kept[part], weight_of[part]
                )
                others += t
                distance += d
                mass += m
            total = real(others)
            value, slope = $RULE(odds(total, own)$CASTED)
            share = weight_of[label] if weight_of.size else ONE
            share = keep * share if SMOOTHED else share
            value = share * value if share != ZERO else ZERO
            a, mine = over(rate * share * slope, total) * by, -(rate * share * slope) * by
            if SMOOTHED:
                value += smoothed(
                    z, g, kept, by, own, total, real(distance), real(mass), label, weight_of, even, a, mine, rate
                )
            elif g.size:
                for k in range(g.size):
                    g[k] = $STORE(a * kept[k])
                g[label] = $STORE(mine)
        value *= weight
        if value_of.size:
            value_of[row] = value
        result += value
    return result


@rule_function
def smoothed(z, g, kept, by, own, total, distance, mass, label, weights, even, a, mine, rate):
    e = decay(own)
    whole = total + e
    if g.size:
        each = rate * by * even
        every = over(each * mass, whole)
        for k in range(g.size):
            w = weights[k] if $LOAD(z[k]) > -np.inf else ZERO
            g[k] = $STORE((a + every) * kept[k] - each * w)
        w = weights[label] if own > -np.inf else ZERO
        g[label] = $STORE(mine + every * e - each * w)
    return even * (distance + mass * xp.log(whole))


@rule_function
def one_expected(z, t, g, kept, shares, shift, by, peak, weights, keep, even, rate):
    teacher_peak = peak_of_matrix(t, shift, by) if TEACHER else ZERO
    total, mass, distance = 0.0, 0.0, 0.0
    for at in range(0, z.size, BLOCK):
        part = slice(at, at + BLOCK)
        x, m, d = expectation(z[part], t[part], shift[part], by, peak, teacher_peak, weights[part], keep, even,
                              kept[part], shares[part])
        total += x
        mass += m
        distance += d
    all_mass = real(mass)
    scaled = over(ONE, all_mass) if TEACHER else ONE
    if g.size:
        a, b = rate * by * over(all_mass * scaled, real(total)), rate * by * scaled
        for k in range(g.size):
            g[k] = $STORE(a * kept[k] - b * shares[k])
    value = scaled * (real(distance) + all_mass * xp.log(real(total)))
    return value - xp.log(all_mass) if TEACHER else value
"""

TILES = """
@rule_function
def fetch(address, tile, at, count, classes, inner, offset, scale):
    if IN_ONE_PIECE:
        for b in range(count):
            z = $VIEW(address + (at + b) * classes * $SIZE, classes)
            for k in range(classes):
                tile[k, b] = logit(z, k, k, offset, scale)
    else:
        first = at // inner * classes * inner + at % inner
        for k in range(classes):
            z, here = $VIEW(address + (first + k * inner) * $SIZE, count), tile[k]
            for b in range(count):
                here[b] = logit(z, b, k, offset, scale)
    for k in range(classes):
        for b in range(count, tile.shape[1]):
            tile[k, b] = ZERO


@rule_function
def fetch_matrix(address, tile, at, count, classes, inner, offset, scale):
    if IN_ONE_PIECE:
        for b in range(count):
            z = $TVIEW(address + (at + b) * classes * $TSIZE, classes)
            for k in range(classes):
                tile[k, b] = entry(z, k, k, offset, scale)
    else:
        first = at // inner * classes * inner + at % inner
        for k in range(classes):
            z, here = $TVIEW(address + (first + k * inner) * $TSIZE, count), tile[k]
            for b in range(count):
                here[b] = entry(z, b, k, offset, scale)
    for k in range(classes):
        for b in range(count, tile.shape[1]):
            tile[k, b] = ZERO


@rule_function
def put(tile, address, at, count, classes, inner):
    if IN_ONE_PIECE:
        for b in range(count):
            g = $VIEW(address + (at + b) * classes * $SIZE, classes)
            for k in range(classes):
                g[k] = $STORE(tile[k, b])
    else:
        first = at // inner * classes * inner + at % inner
        for k in range(classes):
            g, here = $VIEW(address + (first + k * inner) * $SIZE, count), tile[k]
            for b in range(count):
                g[b] = $STORE(here[b])


@rule_function
def peaks(tile, peak):
    for b in range(peak.size):
        peak[b] = LOWEST
    for k in range(tile.shape[0]):
        here = tile[k]
        for b in range(peak.size):
            x = here[b]
            peak[b] = x if x > peak[b] else peak[b]


@rule_function
def of_labels(tile, label, rate, part, value, peak, own, total, mass, distance, margin, weights, even, by,
              factor, wanted$NUMBERS):
    for k in range(tile.shape[0]):
        this, here = integer(k), tile[k]
        for b in range(label.size):
            x = here[b]
            below = x - peak[b]
            own[b] = below if label[b] == this else own[b]
            e = ZERO if label[b] == this else decay(below)
            total[b] += e
            if SMOOTHED:
                masked = x == -np.inf
                mass[b] += ZERO if masked else weights[k]
                distance[b] += weights[k] * drop(peak[b], x)
                e = -ONE if masked else e
            here[b] = e
    if ADJUSTED and margin.size:
        for b in range(label.size):
            own[b] -= by * margin[label[b]]
    for b in range(label.size):
        v, slope = $RULE(odds(total[b], own[b])$CASTED)
        v = part[b] * v if part[b] != ZERO else ZERO
        up = rate[b] * factor[b] * by
        a, mine, each = over(up * part[b] * slope, total[b]), -(up * part[b] * slope), ZERO
        if SMOOTHED:
            e = decay(own[b])
            whole = total[b] + e
            v += even * (distance[b] + mass[b] * xp.log(whole))
            each = up * even
            every = over(each * mass[b], whole)
            a += every
            mine += every * e
        value[b] = rate[b] * v if rate[b] != ZERO else ZERO
        total[b], own[b], distance[b] = a, mine, each
    if wanted:
        for k in range(tile.shape[0]):
            this, here = integer(k), tile[k]
            for b in range(label.size):
                e = here[b]
                if SMOOTHED:
                    each = ZERO if e < ZERO else distance[b] * weights[k]
                    e = e if e > ZERO else ZERO
                    d = (own[b] if label[b] == this else total[b] * e) - each
                else:
                    d = own[b] if label[b] == this else total[b] * e
                here[b] = d if rate[b] != ZERO else ZERO


@rule_function
def of_matrix(tile, shares, rate, value, peak, teacher_peak, total, mass, distance, weights, keep, even, by, factor,
              wanted):
    for k in range(tile.shape[0]):
        here, there = tile[k], shares[k]
        for b in range(rate.size):
            x = here[b]
            e = decay(x - peak[b])
            if TEACHER:
                u = there[b] - teacher_peak[b]
                share = decay(u)
                distance[b] += share * ahead(share, u, peak[b], x)
            else:
                share = weights[k] * (keep * there[b] + even)
                share = share if x > -np.inf else ZERO
                distance[b] += share * drop(peak[b], x)
            here[b] = e
            there[b] = share
            total[b] += e
            mass[b] += share
    for b in range(rate.size):
        scaled = over(ONE, mass[b]) if TEACHER else ONE
        v = scaled * (distance[b] + mass[b] * xp.log(total[b]))
        v = v - xp.log(mass[b]) if TEACHER else v
        value[b] = rate[b] * v if rate[b] != ZERO else ZERO
        up = rate[b] * factor[b] * by
        total[b], mass[b] = up * over(mass[b] * scaled, total[b]), up * scaled
    if wanted:
        for k in range(tile.shape[0]):
            here, there = tile[k], shares[k]
            for b in range(rate.size):
                d = total[b] * here[b] - mass[b] * there[b]
                here[b] = d if rate[b] != ZERO else ZERO


@block_sum
def summed(value):
    total = ZERO
    for b in range(value.size):
        total += value[b]
    return total


@kernel
def some(logits, gradient, labels, matrix, weights, row_weights, offset, handicap, values, upstream, per_row,
         classes, inner, width, ignore_index, factor, smoothing, scale$NUMBERS, begin, end):
    label_of = view_int64(labels, 0 if MATRIX else end)
    weight_of = view_$COMPUTE(weights, classes if weights else 0)
    weight_of_row = view_$COMPUTE(row_weights, end if row_weights else 0)
    shift = view_$COMPUTE(offset, classes if offset else 0)
    margin = view_$COMPUTE(handicap, classes if handicap else 0)
    value_of = view_$COMPUTE(values, end if values else 0)
    above = view_$COMPUTE(upstream, (end if per_row else 1) if upstream else 0)
    if ADJUSTED and not offset:
        shift = np.zeros(classes, real)
    if (SMOOTHED or MATRIX) and not weights:
        weight_of = np.ones(classes, real)
    tiles = np.empty((2 if MATRIX else 1, classes * width), real)
    columns = np.empty((9, width), real)
    label_columns = np.empty(width, integer)
    by = real(scale)
    even = real(smoothing / classes)
    keep = real(1.0 - smoothing)
    result = 0.0
    at = begin
    while at < end:
        count = min(width, min(end - at, inner - at % inner))
        used = min(width, (count + 15) // 16 * 16)
        tile = tiles[0, : classes * used].reshape(classes, used)
        shares = tiles[-1, : classes * used].reshape(classes, used)
        label = label_columns[:used]
        rate, part, value, peak = columns[0][:used], columns[1][:used], columns[2][:used], columns[3][:used]
        own, total, mass = columns[4][:used], columns[5][:used], columns[6][:used]
        distance, up = columns[7][:used], columns[8][:used]
        for b in range(used):
            label[b], rate[b], part[b], up[b] = integer(0), ZERO, ONE, real(factor)
            own[b], total[b], mass[b], distance[b] = ZERO, ZERO, ZERO, ZERO
        for b in range(count):
            row = at + b
            rate[b] = row_weight(row, 0 if MATRIX else label_of[row], 1 if MATRIX else ignore_index, weight_of_row)
            if not MATRIX and rate[b] != ZERO:
                label[b] = integer(label_of[row])
                part[b] = weight_of[label[b]] if weight_of.size else ONE
            part[b] *= keep
            if above.size:
                up[b] *= above[row if per_row else 0]
        fetch(logits, tile, at, count, classes, inner, shift, by)
        peaks(tile, peak)
        if MATRIX:
            fetch_matrix(matrix, shares, at, count, classes, inner, shift, by)
            if TEACHER:
                peaks(shares, own)
            of_matrix(tile, shares, rate, value, peak, own, total, mass, distance, weight_of, keep, even, by, up,
                      gradient != 0)
        else:
            of_labels(tile, label, rate, part, value, peak, own, total, mass, distance, margin, weight_of, even, by,
                      up, gradient != 0$NUMBERS)
        if gradient:
            put(tile, gradient, at, count, classes, inner)
        if value_of.size:
            for b in range(count):
                value_of[at + b] = value[b]
        result += summed(value)
        at += count
    return result
"""

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
