"""The source of the row kernel for few classes, or classes apart: vectors run along positions (see `row_bodies`)."""

from __future__ import annotations

__all__ = ["TILES"]

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
