"""What every elementwise optimizer shares; a concrete one adds its rule, its states and its per-step numbers.

One step, top to bottom: `step` goes through the parameter groups; `_batches` sorts a group's parameters into tables
that a kernel can take and parameters that go through the reference; `_run_table` and `_run_reference` apply the rule.
"""

from __future__ import annotations

import abc
import functools
import logging
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._compile import _disable_dynamo

from trivet.errors import BackendError, InputError, unknown_name
from trivet.kernels import cpu, gpu, multi_tensor, multi_tensor_gpu, multi_tensor_stored
from trivet.kernels.binding import Rule, parameters
from trivet.kernels.multi_tensor_stored import Layout
from trivet.optim import storage
from trivet.optim.checkpoints import fitted, restore_types, translated
from trivet.optim.guard import Guarded
from trivet.optim.hyperparameters import check_common, one_of, own_rates
from trivet.optim.measuring import Measured, Norms

__all__ = ["Backend", "ElementwiseOptimizer", "Number", "Params", "Step", "filled"]

log = logging.getLogger("trivet.kernels")

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Backend = Literal["auto", "torch", "cpu", "triton"]
Step = NDArray[np.float64]
Number = float | Step


@dataclass
class _Table:
    """Parameters that one kernel call updates."""

    params: list[Tensor]
    states: list[dict[str, Any]]
    columns: dict[str, list[Tensor]]  # the states' tensors as the user sees them, `step` included
    kernel: multi_tensor.Table
    steps: NDArray[np.int64]  # where the counts lie
    simple: bool  # all parameters are real and whole
    places: NDArray[np.int64] | None = None  # of the parameters, where chance decides how states are rounded

    def moved(self, states: bool) -> bool:
        """Return whether a parameter (or a state) has got other memory, or is another, since the table was made."""
        return (
            self.kernel.moved(states=states)
            or (states and self._replaced())
            or not (self.simple or all(map(_alias, map(_plain, self.params), self.kernel.columns[0])))
        )

    def recognises(self, grads: Sequence[Tensor | None]) -> bool:
        """Return whether gradients and parameters are as in the last step, their addresses at hand."""
        return self.simple and self.kernel.recognises(grads)

    def _replaced(self) -> bool:
        same = (_same(column, [state.get(name) for state in self.states]) for name, column in self.columns.items())
        return not all(same) or not np.array_equal(multi_tensor.addresses(self.columns.get("step", [])), self.steps)


@dataclass
class _Batches:
    """How a group's parameters are executed, and what must not change while that stands."""

    params: list[Tensor]
    rule: Rule
    states: list[dict[str, Any]]
    tables: list[_Table]
    others: list[Tensor]


class ElementwiseOptimizer(Guarded, Measured, torch.optim.Optimizer, abc.ABC):
    """An optimizer whose update of one element depends on that element's own gradient and states alone.

    A subclass gives `rule`, `states` and `numbers`; `counts_steps` says whether torch's optimizer of that name keeps
    `step`, and `counters` names other states that are one number per parameter, with their first values. Complex
    parameters are updated as pairs of reals, halves are computed in float32, and FSDP2's parameters are updated on
    the local shard.
    """

    counts_steps: ClassVar[bool] = True
    counters: ClassVar[dict[str, float]] = {}

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        *,
        backend: Backend = "auto",
        state_format: storage.StateFormat | None = None,
        rounding: storage.Rounding = "nearest",
    ) -> None:
        if backend not in ("auto", "torch", "cpu", "triton"):
            raise unknown_name("backend", backend, ("auto", "torch", "cpu", "triton"))
        self.backend: Backend = backend
        self._cached: dict[int, _Batches] = {}
        self._new: set[Tensor] = set()  # parameters whose state was made in this step
        self._seen = False  # whether anyone else may hold a state's tensor
        self._unguarded()
        self._unmeasured()
        super().__init__(params, defaults | {"state_format": state_format, "rounding": rounding})

    @abc.abstractmethod
    def rule(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule for this group: (p, g, *states, *numbers) -> (p', *states')."""

    @abc.abstractmethod
    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the states, in the rule's order."""

    @abc.abstractmethod
    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        """Return the rule's numbers by name, in float64; `step` holds each tensor's count, 1 at its first update.

        Where `counts_steps` is false, `step` is 1 at the first update and 2 at every later one.
        """

    # Looking for states that were replaced or moved costs half a step of 800 small tensors, so it is done only where
    # they can have been: once somebody has asked for them.
    @property
    def state(self) -> Any:
        """The states of each parameter, by name; they may be replaced."""
        self._seen = True
        self._settle()
        return self.__dict__["state"]

    @state.setter
    def state(self, value: Any) -> None:
        self.__dict__["state"] = value

    @property
    def _state(self) -> Any:
        return self.__dict__["state"]

    def state_dict(self) -> dict[str, Any]:
        """Return states and groups, as torch's optimizers do; what is in it is read, not replaced."""
        seen = self._seen
        try:
            return super().state_dict()
        finally:
            self._seen = seen

    def counted(self, group: Mapping[str, Any], step: Step, counters: Mapping[str, list[Tensor]]) -> dict[str, Number]:
        """Move the `counters` on by one step and return all of the rule's numbers; without counters, `numbers`."""
        return self.numbers(group, step)

    def begin(self, group: dict[str, Any]) -> None:
        """Do what is due once per step and group, before its numbers are asked for; by default nothing."""

    def initial(self, name: str, group: Mapping[str, Any], param: Tensor) -> Tensor:
        """Return a state's tensor before the first update; by default zeros."""
        return torch.zeros_like(param, memory_format=torch.preserve_format)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            self.check(self.param_groups[-1])
        except InputError:
            self.param_groups.pop()
            raise
        own_rates(self.param_groups, self.defaults.get("lr"))

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise `InputError` for hyperparameters out of range; a subclass adds its own."""
        check_common(group)
        if group.get("state_format") is not None:
            one_of("state_format", group["state_format"], storage.FORMATS)
        one_of("rounding", group.get("rounding", "nearest"), storage.ROUNDINGS)
        if storage.narrow(group):
            for param in group["params"]:
                storage.layout_of(group, param, ())
        for name in ("capturable", "differentiable"):
            if group.get(name):
                raise InputError(f"{name}=True is not offered; use torch.optim.{type(self).__name__} for it")

    def __getstate__(self) -> dict[str, Any]:
        seen = self._seen
        state = dict(super().__getstate__())
        own = ("backend", "_guard", "_norm", "_skipped")
        self._seen = seen
        return state | {name: getattr(self, name) for name in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._seen = False
        if "_guard" not in self.__dict__:  # not so where a state is loaded into an optimizer that has its guard
            self._unguarded()
        self._unmeasured()
        super().__setstate__(state)
        self._cached, self._new = {}, set()  # addresses are of this process and of these tensors
        self.__dict__.setdefault("backend", "auto")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of ours or of torch's optimizer of this name; see `trivet.optim.checkpoints`."""
        state_dict = translated(self.param_groups, fitted(self.param_groups, state_dict), self.states)
        super().load_state_dict(state_dict)
        restore_types(self, state_dict)
        own_rates(self.param_groups, self.defaults.get("lr"))

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; `closure` recomputes the loss and is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            if self._admits():
                if self._armed:
                    self._found = {}
                for index, group in enumerate(self.param_groups):
                    self._step_group(index, group)
                self._armed = False
        return loss

    # A compiled graph is broken here: Dynamo cannot follow a kernel, which is no slower than what Inductor makes.
    @_disable_dynamo
    def _step_group(self, index: int, group: dict[str, Any]) -> None:
        params: list[Tensor] = group["params"]
        grads = [p.grad for p in params]
        batches = self._cached.get(index)
        recognised = self._recognises(batches, group, params, grads)
        if not recognised and not all(map(operator.is_not, grads, repeat(None))):
            params = [p for p, g in zip(params, grads, strict=True) if g is not None]
            grads = [p.grad for p in params]
            recognised = self._recognises(batches, group, params, grads)
        if not params:
            return
        self.begin(group)
        if storage.narrow(group):
            group["rounded_steps"] = group.get("rounded_steps", 0) + 1
        if recognised:
            self._run_table(group, batches.tables[0], grads, recognised=True)  # type: ignore[arg-type, union-attr]
            return
        if batches is None or not self._stands(batches, group, params):
            batches = self._cached[index] = self._batches(group, params)
        if len(batches.tables) == 1 and not batches.others:
            self._run_table(group, batches.tables[0], grads)  # type: ignore[arg-type]
            return
        for table in batches.tables:
            self._run_table(group, table, [p.grad for p in table.params])  # type: ignore[misc]
        with self._measuring(batches.others):
            for param in batches.others:
                self._run_reference(group, param)

    def _recognises(
        self, batches: _Batches | None, group: Mapping[str, Any], params: list[Tensor], grads: Sequence[Tensor | None]
    ) -> bool:
        """Return whether all is as in the last step but for numbers and the gradients' memory: the common case."""
        return (
            batches is not None
            and not self._seen
            and len(batches.tables) == 1
            and not batches.others
            and batches.rule is self.rule(group)
            and _same(batches.params, params)
            and batches.tables[0].recognises(grads)
            and not cpu.forked()
        )

    def _stands(self, batches: _Batches, group: Mapping[str, Any], params: list[Tensor]) -> bool:
        """Return whether a group's tables still hold: same rule, parameters, states and memory."""
        return (
            batches.rule is self.rule(group)
            and _same(batches.params, params)
            and not (self._seen and not _same(batches.states, self._state.values()))
            and not any(table.moved(self._seen) for table in batches.tables)
            and not (batches.tables and cpu.forked())
        )

    def _batches(self, group: dict[str, Any], params: list[Tensor]) -> _Batches:
        """Sort parameters into tables of one kind each, and those that go through the reference."""
        names = self.states(group)
        kinds: dict[tuple[object, ...], list[Tensor]] = {}
        owned, layouts = [], []
        for param in params:
            state = self._state_of(group, param, names)
            layouts.append(storage.unusual(group, param, names))
            keys = names if layouts[-1] is None else storage.keys_of(layouts[-1], names)
            owned.append([_plain(param), *(_plain(state[key]) for key in keys)])
        shared = multi_tensor.overlapping(owned)
        others = []
        for index, (param, own, layout) in enumerate(zip(params, owned, layouts, strict=True)):
            if self._executes(own, index in shared, layout):
                kinds.setdefault((layout, own[0].device, *(tensor.dtype for tensor in own)), []).append(param)
            else:
                others.append(param)
        if others and self.backend == "auto" and not cpu.forked():
            _say(str(others[0].dtype), str(others[0].device))
        rule = self.rule(group)
        tables = [self._table(group, rule, members, names, kind[0]) for kind, members in kinds.items()]  # type: ignore[arg-type]
        return _Batches(params, rule, list(self._state.values()), tables, others)

    def _table(
        self, group: Mapping[str, Any], rule: Rule, params: list[Tensor], names: tuple[str, ...], layout: Layout | None
    ) -> _Table:
        states = [self._state[param] for param in params]
        keys = names if layout is None else storage.keys_of(layout, names)
        kept = (*keys, *self.counters, *(("step",) if self.counts_steps else ()))
        columns = {name: [state[name] for state in states] for name in kept}
        plain = [list(map(_plain, column)) for column in (params, *(columns[key] for key in keys))]
        simple = not any(p.is_complex() or hasattr(p, "to_local") for p in params)
        steps = multi_tensor.addresses(columns.get("step", []))
        if layout is not None:
            stored = multi_tensor_stored.Table(rule, plain, layout)
            return _Table(params, states, columns, stored, steps, simple, self._places(group, params))
        kernel = multi_tensor_gpu.Table if self._on_gpu(plain[0][0]) else multi_tensor.Table
        return _Table(params, states, columns, kernel(rule, plain), steps, simple)

    def _places(self, group: Mapping[str, Any], params: Iterable[Tensor]) -> NDArray[np.int64]:
        """Return where these parameters stand among all of the optimizer's: the group, and the place in it."""
        index = next(k for k, other in enumerate(self.param_groups) if other is group)
        places = {id(param): place for place, param in enumerate(group["params"])}
        return np.array([(index << 32) + places[id(param)] for param in params], dtype=np.int64)

    def _on_gpu(self, tensor: Tensor) -> bool:
        return self.backend == "triton" or (self.backend == "auto" and tensor.device.type == "cuda")

    def _executes(self, own: list[Tensor], shared: bool, layout: Layout | None) -> bool:
        """Return whether the kernel takes these; a backend that was named and cannot raises."""
        if self.backend == "torch" or (self.backend == "auto" and cpu.forked()):
            return False
        if self.backend != "auto" and cpu.forked():
            raise BackendError(
                f"backend={self.backend!r} cannot run in a forked process; start it by 'spawn', or use backend='auto'"
            )
        if self._on_gpu(own[0]):
            fits = layout is None and multi_tensor_gpu.fits(own) and not shared
            return gpu.takes(fits, self.backend == "triton", "update a parameter", own[0])
        fits = multi_tensor.fits(own) if layout is None else multi_tensor_stored.fits(own, layout)
        fits = fits and not shared
        if not fits and self.backend != "auto":
            raise BackendError(
                f"backend={self.backend!r} cannot update a parameter of {own[0].dtype} on {own[0].device} with strides "
                f"{own[0].stride()}{' and memory shared with another' if shared else ''} here; use backend='auto'"
            )
        return fits

    def _state_of(self, group: Mapping[str, Any], param: Tensor, names: Sequence[str]) -> dict[str, Any]:
        """Return a parameter's state, made at its first update."""
        state: dict[str, Any] = self._state[param] if names or self.counts_steps or storage.narrow(group) else {}
        if storage.narrow(group):
            self._begin_narrow(group, param, state, names)
        else:
            for name in names:
                if state.get(name) is None:
                    state[name] = self.initial(name, group, param)
                    self._new.add(param)
        for name, first in (self.counters | {"step": 0.0} if self.counts_steps else self.counters).items():
            count = state.get(name, first)
            if not (isinstance(count, Tensor) and count.dtype == torch.float32 and count.device.type == "cpu"):
                state[name] = torch.tensor(float(count), dtype=torch.float32)
        return state

    def _defers(self, grads: Sequence[Tensor]) -> bool:
        """Return whether the guard's decision can stay where the gradients lie, on one GPU, until it is there to read.

        A step that turns out not to have been made must be undone on the host: its count can be, what a subclass
        keeps in its groups or `counters` cannot.
        """
        first = grads[0]
        kind = type(self)
        return (
            (first.device.type == "cuda" or (self.backend == "triton" and gpu.executes(first)))
            and all(type(g) is Tensor and g.device == first.device and g.layout == torch.strided for g in grads)
            and not self.counters
            and kind.begin is ElementwiseOptimizer.begin
            and kind._step_group is ElementwiseOptimizer._step_group
            and all(group.get("state_format") is None for group in self.param_groups)
            and all(group.get("rounding", "nearest") == "nearest" for group in self.param_groups)
        )

    def _begin_narrow(
        self, group: Mapping[str, Any], param: Tensor, state: dict[str, Any], names: Sequence[str]
    ) -> None:
        layout = storage.layout_of(group, param, names)
        for name, column in zip(names, layout.columns[1:], strict=True):
            if state.get(name) is None and name + storage.CODES not in state:
                first = self.initial(name, group, param)
                if param.is_complex():
                    state[name] = first
                else:
                    storage.encode(state, name, column, first)
                self._new.add(param)
        if layout.compensated and storage.COMPENSATION not in state:
            state[storage.COMPENSATION] = torch.zeros_like(param, memory_format=torch.preserve_format)

    def _write(
        self, group: Mapping[str, Any], param: Tensor, state: dict[str, Any], name: str, value: Tensor, turn: int
    ) -> None:
        """Store one state's numbers in its format, outside a step; `turn` counts such writes."""
        if not storage.narrow(group):
            state[name].copy_(value)
            return
        names = self.states(group)
        column = storage.layout_of(group, param, names).columns[1 + names.index(name)]
        key = int(storage.random_keys((1 << 40) + turn, self._places(group, [param]))[0])
        plain = _plain(value)
        storage.encode(state, name, column, value, storage.scrambled(plain.numel(), key, plain.device))

    def _run_table(
        self, group: Mapping[str, Any], table: _Table, grads: Sequence[Tensor], *, recognised: bool = False
    ) -> None:
        if not recognised and not (table.simple and _ready(grads)):
            grads = _gradients(grads)
        steps = multi_tensor.advance(table.steps) if self.counts_steps else self._uncounted(table.params)
        if type(table.kernel) is multi_tensor.Table and not self.counters and (steps == steps[0]).all():
            steps = steps[:1]  # the numbers of one are those of all
        scalars = self._scalars(group, steps, {name: table.columns[name] for name in self.counters})
        if table.places is not None:
            assert isinstance(table.kernel, multi_tensor_stored.Table)
            table.kernel.keys = storage.random_keys(group["rounded_steps"], table.places)
        if self._armed:
            self._run_measured(table, grads, scalars, recognised=recognised)
        elif self._status is None:
            table.kernel.run(grads, scalars, recognised=recognised)
        else:
            self._run_there(table, grads, scalars)

    def _run_there(self, table: _Table, grads: Sequence[Tensor], scalars: NDArray[np.float64]) -> None:
        """Let a GPU decide by itself whether the step is made."""
        assert isinstance(table.kernel, multi_tensor_gpu.Table)
        self._counted += table.columns.get("step", [])
        table.kernel.run(grads, scalars, status=self._status)

    def _run_measured(
        self, table: _Table, grads: Sequence[Tensor], scalars: NDArray[np.float64], *, recognised: bool
    ) -> None:
        """Run a table and note the norms that `measured` returns, on the CPU in the same pass."""
        if isinstance(table.kernel, multi_tensor_gpu.Table):
            with self._measuring(table.params):
                table.kernel.run(grads, scalars, status=self._status)
            self._counted += [] if self._status is None else table.columns.get("step", [])
            return
        norms = multi_tensor_stored.measure(table.kernel, grads, scalars, recognised=recognised)
        self._found.update(zip(table.params, (Norms(*row) for row in norms.tolist()), strict=True))

    def _uncounted(self, params: Sequence[Tensor]) -> Step:
        """Return 1 for each parameter's first update and 2 for later ones."""
        steps = np.full(len(params), 2.0)
        if self._new:
            steps[[k for k, param in enumerate(params) if param in self._new]] = 1.0
            self._begun |= self._new.intersection(params)
            self._new.difference_update(params)
        return steps

    def _scalars(
        self, group: Mapping[str, Any], steps: Step, counters: Mapping[str, list[Tensor]]
    ) -> NDArray[np.float64]:
        """Return a row for each of the rule's numbers and one for the gradient's sign, a column per tensor."""
        numbers = self.counted(group, steps, counters)
        names = parameters(self.rule(group))[2 + len(self.states(group)) :]
        scalars = np.empty((len(names) + 1, len(steps)))
        for row, name in zip(scalars, names, strict=False):
            row[:] = numbers[name]
        scalars[-1] = -self._scale if group.get("maximize") else self._scale
        return scalars

    def _run_reference(self, group: Mapping[str, Any], param: Tensor) -> None:
        """Update one parameter by the rule on tensors, in float32 or wider."""
        state = self._state[param]
        assert param.grad is not None
        (grad,) = _gradients([param.grad])
        if self.counts_steps:
            state["step"] += 1
        steps = np.array([float(state["step"])]) if self.counts_steps else self._uncounted([param])
        counters = {name: [state[name]] for name in self.counters}
        *numbers, sign = self._scalars(group, steps, counters)[:, 0].tolist()
        names = self.states(group)
        if storage.narrow(group):
            self._run_narrow(group, param, sign * grad, names, numbers)
            return
        made = None
        if self._status is not None:
            grad, made = grad.to(torch.float64) * self._status[1], self._status[2] != 0
            self._counted += [state["step"]] if self.counts_steps else []
        own = [_plain(param), *(_plain(state[name]) for name in names)]
        wide = torch.promote_types(own[0].dtype, torch.float32)
        results = self.rule(group)(
            own[0].to(wide), sign * grad.to(wide), *(tensor.to(wide) for tensor in own[1:]), *numbers
        )
        for tensor, result in zip(own, results if isinstance(results, tuple) else (results,), strict=True):
            tensor.copy_(result if made is None else torch.where(made, result, tensor))

    def _run_narrow(
        self, group: Mapping[str, Any], param: Tensor, grad: Tensor, names: tuple[str, ...], numbers: list[float]
    ) -> None:
        """As `_run_reference`, where states or the parameter are stored in fewer bits than are computed with."""
        layout, state = storage.layout_of(group, param, names), self._state[param]
        own = _plain(param)
        before = own.float() + state[storage.COMPENSATION].float() if layout.compensated else own.float()
        states = [_plain(storage.decode(state, name)).float() for name in names]
        results = self.rule(group)(before, grad.float(), *states, *numbers)
        key = int(storage.random_keys(group["rounded_steps"], self._places(group, [param]))[0])
        random = storage.scrambled(own.numel(), key, own.device)
        factors = storage.streams(len(names))
        first, *rest = results if isinstance(results, tuple) else (results,)
        for name, column, value, factor in zip(names, layout.columns[1:], rest, factors[1:], strict=True):
            if column.scaled:
                storage.encode(state, name, column, value, random, factor)
            else:
                _plain(state[name]).copy_(storage.rounded(value, column, random, factor))
        own.copy_(storage.rounded(first, layout.columns[0], random, factors[0]))
        if layout.compensated:
            state[storage.COMPENSATION].copy_(first - own.float())


def filled(param: Tensor, value: float) -> Tensor:
    """Return a state like the parameter, every real number in it the same."""
    number = complex(value, value) if param.is_complex() else value
    return torch.full_like(param, number, memory_format=torch.preserve_format)


@functools.cache
def _say(dtype: str, device: str) -> None:
    """Say once for each kind that `auto` has taken the reference."""
    log.warning(
        "parameters (the first is %s on %s) are updated by torch, one operation at a time: a kernel takes "
        "floating-point numbers without holes or shared memory; backend='torch' says that this is wanted",
        dtype,
        device,
    )


def _same(before: Sequence[object], now: Iterable[object]) -> bool:
    now = list(now)
    return len(before) == len(now) and all(map(operator.is_, before, now))


def _alias(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape


def _plain(tensor: Tensor) -> Tensor:
    """Return the tensor whose elements are updated: the local shard, complex numbers as pairs of reals."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return torch.view_as_real(local) if local.is_complex() else local


def _gradients(grads: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return gradients as `_plain` returns parameters; raises `InputError` for sparse ones."""
    if any(grad.layout != torch.strided for grad in grads):
        raise InputError("a gradient is sparse; use Embedding(sparse=False), or torch.optim.SparseAdam for this layer")
    return [_plain(grad.resolve_conj().resolve_neg()) for grad in grads]


def _ready(grads: Sequence[Tensor]) -> bool:
    """Return whether gradients are dense and not lazily negated, cheaply: a step asks this of every one of them."""
    try:
        return all(map(Tensor.is_contiguous, grads)) and not any(map(Tensor.is_neg, grads))
    except RuntimeError:  # sparse tensors have no such thing as contiguity
        return False
