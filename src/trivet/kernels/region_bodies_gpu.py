"""The source of the region kernels for Triton: the formulas of `region_bodies`, a tile of positions and classes each.

Notation: x a logit, p predicted and t true shares of a class at a position; h the derivative of the loss by p. A tile
is `(ROWS, COLS)`; classes that do not fit one are walked through in several (`WHOLE` is false).
"""

from __future__ import annotations

__all__ = ["REGIONS"]

REGIONS = """
@triton.jit
def fetch(z, truths, label, at, p, live, classes, inner, APART: tl.constexpr, COLS: tl.constexpr):
    # The tile of classes from `at` on: logits, those outside as if masked, and true shares.
    k = at + tl.arange(0, COLS)[None, :]
    inside = live[:, None] & (k < classes)
    place = place_of(p[:, None], k, classes, inner, APART)
    x = tl.load(z + place, inside, other=float("-inf")).to(tl.$COMPUTE)
    if truths is not None:
        t = tl.load(truths + place, inside, other=0.0).to(tl.$COMPUTE)
    else:
        t = tl.where(label[:, None] == k, 1.0, 0.0)
    return k, inside, place, x, t


@triton.jit
def kept_of(labels, mask, row, live, ignore_index, classes):
    # What a position counts: 1 or 0, or NaN where its label is no class; and the class that its label names.
    kept = tl.where(live, 1.0, 0.0).to(tl.$COMPUTE)
    label = tl.zeros_like(row) - 1
    if labels is not None:
        given = tl.load(labels + row, live, other=0).to(tl.int64)
        counts = given != ignore_index
        sound = (given >= 0) & (given < tl.maximum(classes, 2))
        kept = tl.where(counts, tl.where(sound, kept, float("nan")), 0.0)
        label = tl.where(counts, given - tl.where(classes == 1, 1, 0), -1)  # of one class, 1 is the label that says yes
    if mask is not None:
        kept = tl.where(tl.load(mask + row, live, other=0) != 0, kept, 0.0)
    return tl.where(live, kept, 0.0), label


@triton.jit
def powers(x, peak, SIGMOID: tl.constexpr):
    if SIGMOID:
        e = decay(-tl.abs(x))
        return tl.where(x >= 0.0, 1.0, e) / (1.0 + e)
    else:
        return decay(x - peak[:, None])


@triton.jit
def survey(z, p, live, classes, inner, APART: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    # The peak of each position and the sum of its exponentials, over all tiles of its classes.
    peak = tl.full([ROWS], $LOWEST, tl.$COMPUTE)
    total = tl.zeros([ROWS], tl.$COMPUTE)
    for at in range(0, classes, COLS):
        k, inside, place, x, t = fetch(z, None, p, at, p, live, classes, inner, APART, COLS)
        rise = xp.maximum(peak, tl.max(x, 1))
        total = total * decay(peak - rise) + tl.sum(decay(x - rise[:, None]), 1)
        peak = rise
    return peak, total


@triton.jit
def predicted(x, peak, inverse, SIGMOID: tl.constexpr):
    return tl.where(inverse[:, None] != 0.0, powers(x, peak, SIGMOID) * inverse[:, None], 0.0)


@triton.jit
def divided(kept, total):
    return tl.where((kept != 0.0) & (total != 0.0), kept / tl.where(total == 0.0, 1.0, total), 0.0)


@triton.jit
def slope(p, t, above, k, inside, image, images, classes, SQUARED: tl.constexpr):
    by_shared = tl.load(above + image * classes + k, k < classes, other=0.0)
    by_predicted = tl.load(above + (images + image) * classes + k, k < classes, other=0.0)
    if SQUARED:
        by_predicted = 2.0 * p * by_predicted
    return by_shared * t + by_predicted


@triton.jit
def masses(p, t, inverse, SQUARED: tl.constexpr):
    t = tl.where(inverse[:, None] != 0.0, t, 0.0)
    if SQUARED:
        return tl.sum(p * t, 0), tl.sum(p * p, 0), tl.sum(t * t, 0)
    else:
        return tl.sum(p * t, 0), tl.sum(p, 0), tl.sum(t, 0)


@triton.jit
def leave(parts, program, k, classes, shared, predicted, true, together):
    line = parts + program.to(tl.int64) * 4 * classes + k
    tl.store(line, shared, k < classes)
    tl.store(line + classes, predicted, k < classes)
    tl.store(line + 2 * classes, true, k < classes)
    tl.store(line + 3 * classes, tl.zeros_like(shared) + together, k < classes)


@triton.jit
def add_up(
    z, labels, truths, mask, parts, ignore_index, classes, inner, pieces,
    SIGMOID: tl.constexpr, SQUARED: tl.constexpr, APART: tl.constexpr, WHOLE: tl.constexpr, ALIGN: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, STEPS: tl.constexpr,
):
    # How far apart lines lie comes divided by ALIGN: so the compiler sees where several numbers can be read at once.
    if APART:
        inner = inner * ALIGN
    else:
        classes = classes * ALIGN
    program = tl.program_id(0)
    image = program // pieces
    p = tl.arange(0, ROWS)
    columns = tl.arange(0, COLS)
    shared = tl.zeros([COLS], tl.$COMPUTE)
    foreseen, true, together = shared, shared, tl.sum(shared, 0)
    for step in range(0, STEPS):
        first = ((program % pieces).to(tl.int64) * STEPS + step) * ROWS
        live = first + p < inner
        kept, label = kept_of(labels, mask, image.to(tl.int64) * inner + first + p, live, ignore_index, classes)
        begin = start_of(image, first, classes, inner, APART)
        there = None if truths is None else truths + begin
        if WHOLE:
            k, inside, place, x, t = fetch(
                z + begin, there, label, 0, p, live, classes, inner, APART, COLS
            )
            peak, inverse = largest(x), kept
            if not SIGMOID:
                inverse = divided(kept, tl.sum(powers(x, peak, SIGMOID), 1))
            s, f, m = masses(predicted(x, peak, inverse, SIGMOID), t, inverse, SQUARED)
            shared, foreseen, true = shared + s, foreseen + f, true + m
            together += tl.sum(tl.where(inverse != 0.0, 1.0, 0.0), 0)
        else:
            peak, inverse = kept, kept
            if not SIGMOID:
                peak, total = survey(z + begin, p, live, classes, inner, APART, ROWS, COLS)
                inverse = divided(kept, total)
            together = tl.sum(tl.where(inverse != 0.0, 1.0, 0.0), 0)
            for at in range(0, classes, COLS):
                k, inside, place, x, t = fetch(z + begin, there, label, at, p, live, classes, inner, APART, COLS)
                s, f, m = masses(predicted(x, peak, inverse, SIGMOID), t, inverse, SQUARED)
                leave(parts, program, at + columns, classes, s, f, m, together)
    if WHOLE:
        leave(parts, program, columns, classes, shared, foreseen, true, together)


@triton.jit
def spread(
    z, labels, truths, mask, above, room, ignore_index, classes, inner, images, pieces,
    SIGMOID: tl.constexpr, SQUARED: tl.constexpr, APART: tl.constexpr, WHOLE: tl.constexpr, ALIGN: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
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
    kept, label = kept_of(labels, mask, image.to(tl.int64) * inner + first + p, live, ignore_index, classes)
    begin = start_of(image, first, classes, inner, APART)
    z += begin
    room += begin
    if truths is not None:
        truths += begin
    peak, inverse, mean = kept, kept, tl.zeros([ROWS], tl.$COMPUTE)
    if WHOLE:
        k, inside, place, x, t = fetch(z, truths, label, 0, p, live, classes, inner, APART, COLS)
        peak = largest(x)
        if not SIGMOID:
            inverse = divided(kept, tl.sum(powers(x, peak, SIGMOID), 1))
        q = predicted(x, peak, inverse, SIGMOID)
        h = slope(q, t, above, k, inside, image, images, classes, SQUARED)
        put(room + place, q, h, tl.sum(q * h, 1), inverse, inside, SIGMOID)
    else:
        if not SIGMOID:
            peak, total = survey(z, p, live, classes, inner, APART, ROWS, COLS)
            inverse = divided(kept, total)
            for at in range(0, classes, COLS):
                k, inside, place, x, t = fetch(z, truths, label, at, p, live, classes, inner, APART, COLS)
                q = predicted(x, peak, inverse, SIGMOID)
                mean += tl.sum(q * slope(q, t, above, k, inside, image, images, classes, SQUARED), 1)
        for at in range(0, classes, COLS):
            k, inside, place, x, t = fetch(z, truths, label, at, p, live, classes, inner, APART, COLS)
            q = predicted(x, peak, inverse, SIGMOID)
            h = slope(q, t, above, k, inside, image, images, classes, SQUARED)
            put(room + place, q, h, mean, inverse, inside, SIGMOID)


@triton.jit
def put(room, q, h, mean, inverse, inside, SIGMOID: tl.constexpr):
    if SIGMOID:
        d = q * (1.0 - q) * h
    else:
        d = q * (h - mean[:, None])
    d = tl.where(inverse[:, None] != 0.0, d, 0.0)
    tl.store(room, d.to(room.dtype.element_ty), inside)
"""
