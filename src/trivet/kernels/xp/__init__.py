"""The closed list of functions that a rule may use, once per execution.

A rule is a plain scalar function over `xp`. Each module here has exactly the names in `NAMES`:

    reference.py     tensors, any device and type, and plain numbers
    cpu_float32.py   Numba, single precision: polynomials that LLVM vectorises, at most 2 ulp
    cpu_float64.py   Numba, double precision: the C library's functions
    gpu.py           Triton

All treat NaN alike: it passes through everything, `maximum` and `minimum` included, except that `sign` of it is 0, as
torch's is, that its power 0 and every power of 1 are 1, and that `where` takes only the side that was chosen.

While a rule is being written, and wherever it runs on tensors, `xp` is `reference`.
"""

NAMES = (
    "abs",
    "exp",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "pow",
    "sigmoid",
    "sign",
    "softplus",
    "sqrt",
    "tanh",
    "where",
)
