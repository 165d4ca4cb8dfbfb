"""The source of the row kernel for many classes in one piece: vectors run along the classes (see `row_bodies`)."""

from __future__ import annotations

__all__ = ["WIDE"]

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
