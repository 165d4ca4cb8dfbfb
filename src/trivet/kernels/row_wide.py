"""The source of the row kernel for many classes in one piece: vectors run along the classes (see `row_bodies`)."""

from __future__ import annotations

__all__ = ["WIDE"]

WIDE = """
EVEN = 64  # classes: four vectors of 16; what is left over of a row would be computed one by one


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


@rule_function
def greater(x, y):
    # A NaN in either stays one, as in `peak_of`.
    return x if x > y or x != x else y


@block_sum
def exponentials(z, offset, scale, peak, label, kept, weights):
    total, distance, mass = ZERO, ZERO, ZERO
    for k in range(z.size):
        x = logit(z, k, k, offset, scale)
        e = decay(x - peak)
        e = ZERO if integer(k) == label else e
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


# What was kept lies in the gradient's own memory, but for halves. Read as a second array it would make LLVM compute one
# element at a time, since the two overlap.
@rule_function
def spread(g, kept, shares, a, b):
    for k in range(g.size):
        g[k] = $STORE(a * $AGAIN[k] - b * shares[k]) if MATRIX else $STORE(a * $AGAIN[k])


@rule_function
def spread_smoothed(z, g, kept, weights, a, each):
    for k in range(g.size):
        w = weights[k] if $LOAD(z[k]) > -np.inf else ZERO
        g[k] = $STORE(a * $AGAIN[k] - each * w)


@rule_function
def padded(row, rest):
    # The last elements of a row, in an array of EVEN.
    end = np.zeros(EVEN, row.dtype)
    last = row[row.size - rest :]
    for k in range(rest):
        end[k] = last[k]
    return end


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
    # A row is its main part, whole vectors, and its rest in arrays of its own, filled up with masked classes.
    main = classes // EVEN * EVEN
    rest = classes - main
    last_z = np.empty(EVEN, z_rows.dtype)
    last_z[:] = $STORE(real(-np.inf))
    last_t = np.empty(EVEN, t_rows.dtype)
    last_t[:] = $TSTORE(real(-np.inf) if TEACHER else ZERO)
    last_kept, last_shares = np.empty(EVEN, real), np.empty(EVEN, real)
    last_g = $LAST
    last_shift = padded(shift, rest if ADJUSTED else 0)
    last_weights = padded(weight_of, rest if SMOOTHED or MATRIX else 0)
    result = 0.0
    for row in range(begin, end):
        here = slice((row - begin) * classes, (row - begin + 1) * classes)
        z = z_rows[here]
        t = t_rows[here]
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
        z_main, t_main, kept_main, g_main = z[:main], t[:main], kept[:main], g[:main]
        z_rest, t_rest = z[main:], t[main:]
        for k in range(rest):
            last_z[k] = z_rest[k]
        if MATRIX:
            for k in range(rest):
                last_t[k] = t_rest[k]
        peak = peak_of(z_main, shift, by)
        if rest:
            peak = greater(peak, peak_of(last_z, last_shift, by))
        rate = real(factor) * weight
        if above.size:
            rate *= above[row if per_row else 0]
        a, b, own, label_slope, each = ZERO, ZERO, ZERO, ZERO, ZERO
        if MATRIX:
            value, a, b = expected(
                z_main, t_main, kept_main, shares, shift, weight_of, last_z, last_t, last_kept, last_shares,
                last_shift, last_weights, rest, by, peak, keep, even, rate,
            )
        else:
            own = (logit(z, label, label, shift, by) - peak)
            if margin.size:
                own -= by * margin[label]
            others, distance, mass = 0.0, 0.0, 0.0
            for at in range(0, main, BLOCK):
                part = slice(at, at + BLOCK)
                x, d, m = exponentials(
                    z_main[part], shift[part], by, peak, integer(label - at), kept_main[part], weight_of[part]
                )
                others += x
                distance += d
                mass += m
            if rest:
                x, d, m = exponentials(
                    last_z, last_shift, by, peak, integer(label - main), last_kept, last_weights
                )
                others += x
                distance += d
                mass += m
            total = real(others)
            value, slope = $RULE(odds(total, own)$CASTED)
            share = weight_of[label] if weight_of.size else ONE
            share = keep * share if SMOOTHED else share
            value = share * value if share != ZERO else ZERO
            a, label_slope = over(rate * share * slope, total) * by, -(rate * share * slope) * by
            if SMOOTHED:
                e = decay(own)
                whole = total + e
                each = rate * by * even
                every = over(each * real(mass), whole)
                value += even * (real(distance) + real(mass) * xp.log(whole))
                a += every
                w = weight_of[label] if own > -np.inf else ZERO
                label_slope = label_slope + every * e - each * w
        if g.size:
            if SMOOTHED and not MATRIX:
                spread_smoothed(z_main, g_main, kept_main, weight_of, a, each)
                if rest:
                    spread_smoothed(last_z, last_g, last_kept, last_weights, a, each)
            else:
                spread(g_main, kept_main, shares, a, b)
                if rest:
                    spread(last_g, last_kept, last_shares, a, b)
            g_rest = g[main:]
            for k in range(rest):
                g_rest[k] = last_g[k]
            if not MATRIX:
                g[label] = $STORE(label_slope)
        value *= weight
        if value_of.size:
            value_of[row] = value
        result += value
    return result


@rule_function
def expected(z, t, kept, shares, shift, weights, last_z, last_t, last_kept, last_shares, last_shift, last_weights,
             rest, by, peak, keep, even, rate):
    teacher_peak = ZERO
    if TEACHER:
        teacher_peak = peak_of_matrix(t, shift, by)
        if rest:
            teacher_peak = greater(teacher_peak, peak_of_matrix(last_t, last_shift, by))
    total, mass, distance = 0.0, 0.0, 0.0
    for at in range(0, z.size, BLOCK):
        part = slice(at, at + BLOCK)
        x, m, d = expectation(z[part], t[part], shift[part], by, peak, teacher_peak, weights[part], keep, even,
                              kept[part], shares[part])
        total += x
        mass += m
        distance += d
    if rest:
        x, m, d = expectation(last_z, last_t, last_shift, by, peak, teacher_peak, last_weights, keep, even,
                              last_kept, last_shares)
        total += x
        mass += m
        distance += d
    all_mass = real(mass)
    scaled = over(ONE, all_mass) if TEACHER else ONE
    a, b = rate * by * over(all_mass * scaled, real(total)), rate * by * scaled
    value = scaled * (real(distance) + all_mass * xp.log(real(total)))
    return (value - xp.log(all_mass) if TEACHER else value), a, b
"""
