"""Narrow numbers in Numba kernels: random bits from a counter, bfloat16 by chance, and 8-bit floats in blocks.

`trivet.optim.storage` says what the formats are, and has the same functions on tensors.
"""

from __future__ import annotations

import numpy as np
from numba import njit

u8, u32, i32, f32 = np.uint8, np.uint32, np.int32, np.float32

inlined = njit(forceinline=True, error_model="numpy")


@inlined
def scrambled(x):  # type: ignore[no-untyped-def]
    """Return 32 bits that look random, for a counter combined with a key."""
    x = u32(x ^ u32(x >> u32(16)))
    x = u32(x * u32(0x7FEB352D))
    x = u32(x ^ u32(x >> u32(15)))
    x = u32(x * u32(0x846CA68B))
    return u32(x ^ u32(x >> u32(16)))


@inlined
def stream(random, odd):  # type: ignore[no-untyped-def]
    """Return other bits for another state of the same element, the upper ones good."""
    return u32(random * odd)


@inlined
def magnitude(value):  # type: ignore[no-untyped-def]
    """Return the bits of an absolute value: they are ordered as the values are, NaN above all."""
    return u32(f32(value).view(u32) & u32(0x7FFFFFFF))


@inlined
def narrow_by_chance(value, random):  # type: ignore[no-untyped-def]
    """Return the bits of one of the two nearest bfloat16, the nearer one more often."""
    bits = f32(value).view(u32)
    rounded = np.uint16(u32(bits + u32(random >> u32(16))) >> u32(16))
    return np.uint16(0x7FC0) if value != value else rounded


@inlined
def scale_of(largest):  # type: ignore[no-untyped-def]
    """Return the power of two in which a block is written, from the bits of its largest magnitude."""
    largest = u32(largest)
    top = u32(f32(u32(largest).view(f32) * f32(16.0 / 15.0)).view(u32) & u32(0x7F800000))
    top = u32(226492416) if top < u32(226492416) else top
    top = u32(2113929216) if top > u32(2113929216) else top
    return u32(0x7FC00000).view(f32) if largest >= u32(0x7F800000) else u32(top).view(f32)


@inlined
def encode_signed(y, random):  # type: ignore[no-untyped-def]
    """Return the code of y = x / scale: a sign, four bits of exponent, three of fraction."""
    sign = u32(u32(f32(y).view(u32) >> u32(24)) & u32(0x80))
    bits = magnitude(y)
    size = u32(bits).view(f32)
    chance = u32(random >> u32(12))
    fine = i32(size * f32(2.0**17) + f32(i32(chance)) * f32(2.0**-20))
    coarse = i32(u32(u32(bits + chance) >> u32(20))) - i32(896)
    code = fine if size < f32(2.0**-14) else coarse
    code = i32(127) if code > i32(127) else code
    return u8(u32(code) | sign)


@inlined
def decode_signed(code):  # type: ignore[no-untyped-def]
    c = u32(u32(code) & u32(0x7F))
    size = f32(i32(c)) * f32(2.0**-17) if c < u32(8) else u32(u32(c << u32(20)) + u32(939524096)).view(f32)
    return u32(f32(size).view(u32) | u32(u32(u32(code) & u32(0x80)) << u32(24))).view(f32)


@inlined
def encode_unsigned(y, random):  # type: ignore[no-untyped-def]
    """Return the code of y = x / scale at least 0: five bits of exponent, three of fraction; only 0 becomes 0."""
    bits = magnitude(y)
    size = u32(bits).view(f32)
    chance = u32(random >> u32(12))
    fine = i32(size * f32(2.0**33) + f32(i32(chance)) * f32(2.0**-20))
    coarse = i32(u32(u32(bits + chance) >> u32(20))) - i32(768)
    code = fine if size < f32(2.0**-30) else coarse
    code = i32(255) if code > i32(255) else code
    return u8(i32(1) if code == i32(0) and size > f32(0.0) else code)


@inlined
def decode_unsigned(code):  # type: ignore[no-untyped-def]
    c = u32(code)
    return f32(i32(c)) * f32(2.0**-33) if c < u32(8) else u32(u32(c << u32(20)) + u32(805306368)).view(f32)
