"""Raw memory for Numba kernels: an address as an array, and halves as the floats that they stand for."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

u16, u32 = np.uint16, np.uint32


@intrinsic
def _pointer(typingctx, address, like):  # type: ignore[no-untyped-def]
    """Return an address as a pointer to what `like` is."""
    result = types.CPointer(like)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, like), codegen


@intrinsic
def ask(typingctx, function, of):  # type: ignore[no-untyped-def]
    """Return what the C function at an address says of another address."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word = ir.IntType(64)
        pointer = builder.inttoptr(arguments[0], ir.FunctionType(word, [word]).as_pointer())
        return builder.call(pointer, [arguments[1]])

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def widen_float16(typingctx, bits):  # type: ignore[no-untyped-def]
    """Return the float32 of a float16's bits."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def narrow_float16(typingctx, value):  # type: ignore[no-untyped-def]
    """Return the bits of the float16 nearest to a float32."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


@njit(forceinline=True)
def widen_bfloat16(bits):  # type: ignore[no-untyped-def]
    """Return the float32 of a bfloat16's bits: they are its upper half."""
    return u32(u32(bits) << u32(16)).view(np.float32)


@njit(forceinline=True)
def narrow_bfloat16(value):  # type: ignore[no-untyped-def]
    """Return the bits of the bfloat16 nearest to a float32, ties to even, NaN kept."""
    bits = np.float32(value).view(u32)
    rounded = u16(u32(bits + u32(0x7FFF) + u32(u32(bits >> u32(16)) & u32(1))) >> u32(16))
    return u16(0x7FC0) if value != value else rounded


@njit(forceinline=True)
def same(value):  # type: ignore[no-untyped-def]
    return value


@njit(forceinline=True)
def view_float32(address, size):  # type: ignore[no-untyped-def]
    return carray(_pointer(address, np.float32(0.0)), (size,))


@njit(forceinline=True)
def view_float64(address, size):  # type: ignore[no-untyped-def]
    return carray(_pointer(address, np.float64(0.0)), (size,))


@njit(forceinline=True)
def view_uint16(address, size):  # type: ignore[no-untyped-def]
    return carray(_pointer(address, u16(0)), (size,))


@njit(forceinline=True)
def view_uint8(address, size):  # type: ignore[no-untyped-def]
    return carray(_pointer(address, np.uint8(0)), (size,))


@njit(forceinline=True)
def view_int64(address, size):  # type: ignore[no-untyped-def]
    return carray(_pointer(address, np.int64(0)), (size,))


@njit(forceinline=True)
def view_bool(address, size):  # type: ignore[no-untyped-def]
    return carray(_pointer(address, np.bool_(False)), (size,))
