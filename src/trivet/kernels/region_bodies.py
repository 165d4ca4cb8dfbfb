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
def fetch(address, tile, peak, image, at, count, classes, inner):
    # Brings the logits, and finds the largest of each position.
    for b in range(peak.size):
        peak[b] = LOWEST
    if LAST:
        for b in range(count):
            z = $VIEW(address + ((image * inner + at + b) * classes) * $SIZE, classes)
            for k in range(classes):
                tile[k, b] = $LOAD(z[k])
        for k in range(classes):
            here = tile[k]
            for b in range(count):
                peak[b] = here[b] if here[b] > peak[b] else peak[b]
    else:
        for k in range(classes):
            z, here = $VIEW(address + ((image * classes + k) * inner + at) * $SIZE, count), tile[k]
            for b in range(count):
                x = $LOAD(z[b])
                here[b] = x
                peak[b] = x if x > peak[b] else peak[b]
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
def sigmoids(tile):
    for k in range(tile.shape[0]):
        here = tile[k]
        for b in range(here.size):
            x = here[b]
            e = decay(-xp.abs(x))
            here[b] = (ONE if x >= ZERO else e) / (ONE + e)


@rule_function
def exponentials(tile, peak, total):
    for k in range(tile.shape[0]):
        here = tile[k]
        for b in range(peak.size):
            e = decay(here[b] - peak[b])
            here[b] = e
            total[b] += e


@rule_function
def true_share(truth, label, b, k):
    if SHARES:
        return truth[b]
    return ONE if label[b] == k else ZERO


@block_sum
def add_up(e, truth, label, inverse, k):
    shared, predicted, true = ZERO, ZERO, ZERO
    for b in range(e.size):
        lives = inverse[b] != ZERO
        p = e[b] * inverse[b] if lives else ZERO
        t = true_share(truth, label, b, k)
        t = t if lives else ZERO
        shared += p * t
        predicted += p * p if SQUARED else p
        true += t * t if SQUARED else t
    return shared, predicted, true


@rule_function
def slope(p, t, by_shared, by_predicted):
    return by_shared * t + (TWO * p * by_predicted if SQUARED else by_predicted)


@rule_function
def mean_slopes(tile, shares, label, inverse, mean, above):
    # The mean of h over the classes, weighed by p.
    for k in range(tile.shape[0]):
        here, truth, this = tile[k], shares[k if SHARES else 0], integer(k)
        for b in range(mean.size):
            p = here[b] * inverse[b]
            mean[b] += p * slope(p, true_share(truth, label, b, this), above[0, k], above[1, k])


@rule_function
def gradients(tile, shares, label, inverse, mean, above, address, image, at, count, inner):
    classes = tile.shape[0]
    for k in range(classes):
        here, truth, this = tile[k], shares[k if SHARES else 0], integer(k)
        g = $VIEW(address + ((image * classes + k) * inner + at) * $SIZE, 0 if LAST else count)
        for b in range(count):
            p = here[b] * inverse[b]
            h = slope(p, true_share(truth, label, b, this), above[0, k], above[1, k])
            d = p * (ONE - p) * h if SIGMOID else p * (h - mean[b])
            d = d if inverse[b] != ZERO else ZERO
            if LAST:
                here[b] = d
            else:
                g[b] = $STORE(d)
    if LAST:
        for b in range(count):
            g = $VIEW(address + ((image * inner + at + b) * classes) * $SIZE, classes)
            for k in range(classes):
                g[k] = $STORE(tile[k, b])


@rule_function
def look_up(labels, mask, first, count, shift, ignore_index, label, kept):
    for b in range(kept.size):
        kept[b], label[b] = ONE if b < count else ZERO, integer(-1)
    if labels:
        label_of = view_int64(labels + first * 8, count)
        for b in range(count):
            counts = label_of[b] != ignore_index
            label[b] = integer(label_of[b] - shift) if counts else integer(-1)
            kept[b] = ONE if counts else ZERO
    if mask:
        counted = view_bool(mask + first, count)
        for b in range(count):
            kept[b] = kept[b] if counted[b] else ZERO


@kernel
def some(logits, labels, truths, mask, room, upstream, images, classes, inner, width, ignore_index, pieces, piece,
         parts, begin, end):
    tiles = np.empty((2 if SHARES else 1, classes * width), real)
    columns = np.empty((4, width), real)
    label_column = np.empty(width, integer)
    sent = view_$COMPUTE(upstream, 2 * images * classes if room else 0)
    above = np.empty((2, classes), real)
    shift = 1 if classes == 1 else 0  # of one class, 1 is the label that says yes
    for task in range(begin, end):
        image, first = task // pieces, task % pieces * piece
        if room:
            for k in range(classes):
                above[0, k] = sent[image * classes + k]
                above[1, k] = sent[(images + image) * classes + k]
        for at in range(first, min(first + piece, inner), width):
            count = min(width, min(first + piece, inner) - at)
            used = min(width, (count + 15) // 16 * 16)
            tile = tiles[0, : classes * used].reshape(classes, used)
            shares = tiles[-1, : classes * used].reshape(classes, used)
            inverse, peak, total, label = columns[0][:used], columns[1][:used], columns[2][:used], label_column[:used]
            look_up(labels, mask, image * inner + at, count, shift, ignore_index, label, inverse)
            fetch(logits, tile, peak, image, at, count, classes, inner)
            if SHARES:
                fetch_shares(truths, shares, image, at, count, classes, inner)
            if SIGMOID:
                sigmoids(tile)
            else:
                total[:] = ZERO
                exponentials(tile, peak, total)
                for b in range(used):
                    inverse[b] = inverse[b] / total[b] if inverse[b] != ZERO and total[b] != ZERO else ZERO
            if room:
                mean = columns[3][:used]
                mean[:] = ZERO
                if not SIGMOID:
                    mean_slopes(tile, shares, label, inverse, mean, above)
                gradients(tile, shares, label, inverse, mean, above, room, image, at, count, inner)
                continue
            together = 0
            for b in range(used):
                together += inverse[b] != ZERO
            for k in range(classes):
                s, p, t = add_up(tile[k], shares[k if SHARES else 0], label, inverse, integer(k))
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
