"""The source of the region kernel. Names in capitals are constants of a compiled module, `$NAMES` are filled in.

Notation: p predicted and t true shares of a class at a position; h the derivative of the loss by p.
"""

from __future__ import annotations

__all__ = ["BODY"]

BODY = """
real = $COMPUTE
integer = np.$INTEGER
ZERO, ONE, TWO = real(0.0), real(1.0), real(2.0)
LOWEST = real(np.finfo(np.$COMPUTE).min)

# Sums of at most one tile may change their order, so that they become vectors; tiles are added in float64.
block_sum = njit(fastmath={"contract", "nsz", "arcp", "reassoc"}, forceinline=True, error_model="numpy")


$DECAY


@rule_function
def fetch(address, tile, image, at, count, classes, inner):
    if LAST:
        for b in range(count):
            z = $VIEW(address + ((image * inner + at + b) * classes) * $SIZE, classes)
            for k in range(classes):
                tile[k, b] = $LOAD(z[k])
    else:
        for k in range(classes):
            z, here = $VIEW(address + ((image * classes + k) * inner + at) * $SIZE, count), tile[k]
            for b in range(count):
                here[b] = $LOAD(z[b])
    for k in range(classes):
        for b in range(count, tile.shape[1]):
            tile[k, b] = ZERO


@rule_function
def fetch_shares(address, tile, image, at, count, classes, inner):
    if LAST:
        for b in range(count):
            z = $TVIEW(address + ((image * inner + at + b) * classes) * $TSIZE, classes)
            for k in range(classes):
                tile[k, b] = $TLOAD(z[k])
    else:
        for k in range(classes):
            z, here = $TVIEW(address + ((image * classes + k) * inner + at) * $TSIZE, count), tile[k]
            for b in range(count):
                here[b] = $TLOAD(z[b])
    for k in range(classes):
        for b in range(count, tile.shape[1]):
            tile[k, b] = ZERO


@rule_function
def put(tile, address, image, at, count, classes, inner):
    if LAST:
        for b in range(count):
            g = $VIEW(address + ((image * inner + at + b) * classes) * $SIZE, classes)
            for k in range(classes):
                g[k] = $STORE(tile[k, b])
    else:
        for k in range(classes):
            g, here = $VIEW(address + ((image * classes + k) * inner + at) * $SIZE, count), tile[k]
            for b in range(count):
                g[b] = $STORE(here[b])


@rule_function
def to_shares(tile, peak, total):
    # From logits to probabilities, in place; a position whose classes are all masked has none.
    if SIGMOID:
        for k in range(tile.shape[0]):
            here = tile[k]
            for b in range(peak.size):
                x = here[b]
                e = decay(-xp.abs(x))
                here[b] = (ONE if x >= ZERO else e) / (ONE + e)
        return
    for b in range(peak.size):
        peak[b], total[b] = LOWEST, ZERO
    for k in range(tile.shape[0]):
        here = tile[k]
        for b in range(peak.size):
            peak[b] = here[b] if here[b] > peak[b] else peak[b]
    for k in range(tile.shape[0]):
        here = tile[k]
        for b in range(peak.size):
            e = decay(here[b] - peak[b])
            here[b] = e
            total[b] += e
    for b in range(peak.size):
        total[b] = ONE / total[b] if total[b] != ZERO else ZERO
    for k in range(tile.shape[0]):
        here = tile[k]
        for b in range(peak.size):
            here[b] *= total[b]


@rule_function
def true_share(truth, label, k, b, single):
    if SHARES:
        return truth[b]
    return real(label[b]) if single else (ONE if label[b] == k else ZERO)


@block_sum
def add_up(p, truth, label, kept, k, single):
    shared, predicted, true = ZERO, ZERO, ZERO
    for b in range(kept.size):
        counts = kept[b] != ZERO
        x = p[b] if counts else ZERO
        t = true_share(truth, label, k, b, single) if counts else ZERO
        shared += x * t
        predicted += x * x if SQUARED else x
        true += t * t if SQUARED else t
    return shared, predicted, true


@rule_function
def slope(p, t, by_shared, by_predicted):
    return by_shared * t + (TWO * p * by_predicted if SQUARED else by_predicted)


@rule_function
def to_gradient(tile, shares, label, kept, upstream, classes, mean, single):
    if not SIGMOID:
        for b in range(kept.size):
            mean[b] = ZERO
        for k in range(classes):
            here, truth, this = tile[k], shares[k if SHARES else 0], integer(k)
            up, down = upstream[k], upstream[classes + k]
            for b in range(kept.size):
                mean[b] += here[b] * slope(here[b], true_share(truth, label, this, b, single), up, down)
    for k in range(classes):
        here, truth, this = tile[k], shares[k if SHARES else 0], integer(k)
        up, down = upstream[k], upstream[classes + k]
        for b in range(kept.size):
            p = here[b]
            h = slope(p, true_share(truth, label, this, b, single), up, down)
            d = p * (ONE - p) * h if SIGMOID else p * (h - mean[b])
            here[b] = d if kept[b] != ZERO else ZERO


@kernel
def some(logits, labels, truths, mask, room, upstream, images, classes, inner, width, ignore_index, pieces, piece,
         parts, begin, end):
    tiles = np.empty((2 if SHARES else 1, classes * width), real)
    columns = np.empty((3, width), real)
    label_column = np.empty(width, integer)
    counts = view_bool(mask, images * inner if mask else 0)
    label_of = view_int64(labels, images * inner if labels else 0)
    single = classes == 1
    above = np.empty(2 * classes, real)
    for task in range(begin, end):
        image, first = task // pieces, task % pieces * piece
        if room:
            for half in range(2):
                sent = view_$COMPUTE(upstream + (half * images + image) * classes * $WIDE, classes)
                for k in range(classes):
                    above[half * classes + k] = sent[k]
        for at in range(first, min(first + piece, inner), width):
            count = min(width, min(first + piece, inner) - at)
            used = min(width, (count + 15) // 16 * 16)
            tile = tiles[0, : classes * used].reshape(classes, used)
            shares = tiles[-1, : classes * used].reshape(classes, used)
            kept, peak, total, label = columns[0][:used], columns[1][:used], columns[2][:used], label_column[:used]
            for b in range(used):
                kept[b], label[b] = ZERO, integer(-1)
            for b in range(count):
                place = image * inner + at + b
                kept[b] = ONE
                if labels:
                    kept[b] = ONE if label_of[place] != ignore_index else ZERO
                    label[b] = integer(label_of[place]) if label_of[place] != ignore_index else integer(0)
                if mask and not counts[place]:
                    kept[b] = ZERO
            fetch(logits, tile, image, at, count, classes, inner)
            to_shares(tile, peak, total)
            if SHARES:
                fetch_shares(truths, shares, image, at, count, classes, inner)
            if room:
                to_gradient(tile, shares, label, kept, above, classes, peak, single)
                put(tile, room, image, at, count, classes, inner)
            else:
                together = 0
                for b in range(used):
                    together += kept[b] != ZERO
                for k in range(classes):
                    s, p, t = add_up(tile[k], shares[k if SHARES else 0], label, kept, integer(k), single)
                    parts[task, 0, k] += s
                    parts[task, 1, k] += p
                    parts[task, 2, k] += t
                    parts[task, 3, k] += together


@threaded
def every(logits, labels, truths, mask, room, upstream, images, classes, inner, width, ignore_index, pieces, piece,
          parts):
    for task in prange(images * pieces):
        some(logits, labels, truths, mask, room, upstream, images, classes, inner, width, ignore_index, pieces, piece,
             parts, task, task + 1)
"""
