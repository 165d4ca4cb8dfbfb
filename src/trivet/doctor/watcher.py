"""Watch a run as it goes: two lines in anyone's loop, at a cost that the watcher sets itself.

A step is what an optimizer makes: losses handed over between two of them (accumulation) are averaged, and a loss
without a step (a scaler that skipped it) is counted as skipped. Most steps cost a few microseconds; a probed step costs
a look into every layer, and probes are so far apart that all of it stays within `SHARE` of the time or `FLOOR`
seconds per step, whichever is larger.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from trivet.doctor.examine import examine
from trivet.doctor.guard import NonFiniteError, check_gradients
from trivet.doctor.setting import of_inputs, of_model, of_targets
from trivet.doctor.signals import Sampler
from trivet.errors import InputError
from trivet.optim import total_norm
from trivet.recipes import Finding
from trivet.record import End, Eval, Event, Found, Journal, Probe, Record, Setting, Start, Step, as_record

SHARE, FLOOR = 0.01, 30e-6
FIRST = (1, 2, 3, 5, 8, 12, 16, 20)  # steps that are always probed: most faults show at once
POOLED = 20  # step at which the targets seen so far are taken for all of them
KEPT = 4000  # step events that a watcher holds before it merges neighbours


class Change:
    """A cheap alarm: the sum of how far losses lie above their recent level (CUSUM); NaN neither trips nor harms it.

    >>> change = Change()
    >>> any(change(1.0 + 0.01 * (k % 3)) for k in range(200)), any(change(2.0) for _ in range(10))
    (False, True)
    """

    def __init__(self) -> None:
        self.level = self.spread = math.nan
        self.sum = 0.0

    def __call__(self, value: float) -> bool:
        """Take one value; return whether the level has changed."""
        if not math.isfinite(value):
            return False
        if math.isnan(self.level):
            self.level, self.spread = value, 0.1 * abs(value) + 1e-12
            return False
        away = value - self.level
        self.sum = max(0.0, self.sum + min(away / self.spread, 8.0) - 2.0)
        step = math.copysign(min(abs(away), 3 * self.spread), away)
        self.level += 0.05 * step
        self.spread += 0.05 * (abs(step) * 1.25 - self.spread) + 1e-15
        if self.sum > 12.0:
            self.sum, self.level = 0.0, value
            return True
        return False


class Watch:
    """What `watch` returns; see there."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        loss: nn.Module | None,
        *,
        steps: int | None,
        guard: bool,
        share: float,
        on_finding: Callable[[Finding], None] | None,
        write: Callable[[Event], None] | None,
        first: int = 0,
    ) -> None:
        self.model, self.criterion, self.guard = model, loss, guard
        self.share, self.on_finding, self._write = share, on_finding, write
        self.sampler = Sampler(model, optimizers)
        self.setting: Setting | None = None
        self.start = Start(steps, steps, 0, 0, "", "metric", True) if steps else None
        self.steps: list[Step] = []
        self.evals: list[Eval] = []
        self.probes: list[Probe] = []
        self.found: list[Found] = []
        self.ended: End | None = None
        self.first = self.step_number = first  # more than 0 where a run goes on
        self.spent = self.probe_cost = 0.0  # seconds that watching took, and that one probe takes
        self._stepped = 0
        self._losses: Tensor | float = 0.0
        self._pending: list[tuple[int, Tensor | float, float, float | None]] = []
        self._count = 0
        self._inputs: list[tuple[object, ...]] = []  # of the forward passes since the last step
        self._targets: list[Tensor] = []
        self._began_anew = False
        self._pause, self._next, self._exam = 1, first + 1, first + POOLED
        self._value: Tensor | float = 0.0
        self._compare = False
        self._waiting: Probe | None = None
        self._began = self._last = time.perf_counter()
        self._step_time = math.nan
        self._change = Change()
        self._said: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._hooked))
            self._handles.append(optimizer.register_step_post_hook(self._after))
        self._telling = _telling(self.sampler)
        if guard:
            self._handles.append(model.register_forward_pre_hook(self._keep_inputs))
        self._arm()

    # -- the user's side ----------------------------------------------------------------------------

    def step(
        self,
        loss: Tensor | float,
        *,
        output: Tensor | None = None,
        target: Tensor | None = None,
        lr: float | None = None,
        grad_norm: float | None = None,
    ) -> None:
        """Take the loss of a batch; call it once per batch, after the optimizer's step where there is one.

        `output` and `target` are what the loss was computed from; they are needed only where `watch` was not given
        the loss as a module. `grad_norm` is the norm before clipping, where the loop has it.
        """
        began = time.perf_counter()
        # Without gradient: holding the graph would hold the batch's memory.
        value: Tensor | float = loss.detach() if isinstance(loss, Tensor) else float(loss)
        if isinstance(value, Tensor) and value.device.type == "cpu":
            value = value.item()
        if self.sampler.armed and output is not None and target is not None:
            self.sampler.output, self.sampler.target = output.detach(), target.detach()
        self._value = value
        self._losses = self._losses + value
        self._count += 1
        if self._stepped:
            self._full_step(lr, grad_norm)
        now = time.perf_counter()
        self.spent += now - began

    def evaluated(
        self,
        *,
        loss: float = math.nan,
        metric: float = math.nan,
        name: str = "metric",
        higher_is_better: bool = True,
        recalls: Sequence[float] = (),
    ) -> None:
        """Take the result of a validation pass: its loss, its metric, the recall of each class, what is known."""
        if self.start is not None and self.start.metric != name:
            self.start = msgspec.structs.replace(self.start, metric=name, higher_is_better=higher_is_better)
        elif self.start is None:
            self.start = Start(0, 0, 0, 0, "", name, higher_is_better)
        seconds = time.perf_counter() - self._began
        self.evals.append(Eval(self.step_number, "val", metric, loss, seconds, recalls=tuple(recalls)))

    @property
    def record(self) -> Record:
        """All that was seen, as a record; what is still on its way from the device comes with the next one."""
        self._flush(wait=True)
        return self._events()

    def _events(self) -> Record:
        events: list[Event] = [*self.steps, *self.evals, *self.probes, *self.found]
        if self.start is not None:
            start = self.start if self.start.steps else msgspec.structs.replace(self.start, steps=self.step_number)
            events.insert(0, start)
        if self.setting is not None:
            events.append(self.setting)
        if self.ended is not None:
            events.append(self.ended)
        return as_record(events)

    @property
    def findings(self) -> list[Finding]:
        """What is wrong so far, the root cause first."""
        return examine(self.record)

    def save(self, path: str | Path) -> None:
        """Write the record as JSON lines, for `trivet doctor` and `trivet follow`."""
        record = self.record
        with Journal(Path(path)) as journal:
            for event in (record.start, record.setting, *record.steps, *record.evals, *record.probes, *record.found):
                if event is not None:
                    journal.write(event)
            journal.write(self.ended or End(self.step_number, "finished", time.perf_counter() - self._began))

    def close(self) -> None:
        """Take every hook away; the record stays."""
        self.sampler.disarm()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- hooks --------------------------------------------------------------------------------------

    def _keep_inputs(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        if module.training or not self._inputs:
            if self._began_anew:
                self._inputs.clear()
                self._began_anew = False
            self._inputs.append(inputs)

    def _hooked(
        self, optimizer: torch.optim.Optimizer, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]] | None:
        """Look before the step; with a closure the gradients are made inside the step, so look at the closure's end."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            self._before(optimizer, args, kwargs)
            return None
        make, looked = closure, False

        def looking() -> object:
            nonlocal looked
            loss = make()
            if not looked:
                looked = True
                self._before(optimizer, args, kwargs)
            return loss

        return args[:1], {**kwargs, "closure": looking}

    def _before(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        began = time.perf_counter()
        if self.guard and not self._finite():
            try:
                check_gradients(self.sampler.whole, self._inputs, self.step_number + 1)
            except NonFiniteError as error:
                self._stop(error)
                raise
        if self._compare and not self._stepped:
            self._compare = False
            if self._waiting is not None:
                self._waiting.numbers["turn"] = round(self.sampler.compare(), 4)
        if self.sampler.armed and not self._stepped:
            self.sampler.before_step()
        self.spent += time.perf_counter() - began

    def _finite(self) -> bool:
        """Whether gradients are finite, told by the small ones: a bias sums what its layer's weights are made of."""
        try:
            return math.isfinite(float(total_norm(self._telling)))
        except (RuntimeError, NotImplementedError):  # sparse gradients have no such norm: look closer
            return False

    def _stop(self, error: NonFiniteError) -> None:
        """Put what the guard saw into the record, as the last probe of a run that ended there."""
        if self.setting is None:
            self.setting = of_model(self.sampler, self.criterion)
            self._say(self.setting)
        names = self.setting.layers
        numbers = {"bad_inputs": 1.0} if error.tensor == "input" else {}
        if error.tensor == "output" and error.layer in names:
            numbers["bad_layer"] = float(names.index(error.layer))
        self._flush(wait=True)
        self._say_probe(Probe(step=self.step_number + 1, loss=math.nan, numbers=numbers))
        self.ended = End(self.step_number, "diverged", time.perf_counter() - self._began)
        self._say(self.ended)

    def _after(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        self._stepped += 1
        self.sampler.fresh = self._began_anew = True
        if self.sampler.armed and self._stepped == 1:
            began = time.perf_counter()
            self.sampler.after_step()
            self.spent += time.perf_counter() - began

    # -- one full step ------------------------------------------------------------------------------

    def _full_step(self, lr: float | None, grad_norm: float | None) -> None:
        self.step_number += 1
        number, value = self.step_number, self._losses / self._count
        self._losses, self._count, self._stepped = 0.0, 0, 0
        rate = lr if lr is not None else _rate(self.sampler.optimizers)
        self._pending.append((number, value, rate, grad_norm))
        if self._waiting is not None and not self._compare:
            self._say_probe(self._waiting)
            self._waiting = None
        if self.sampler.armed:
            # Of several batches the last: its outputs are the ones that were seen.
            self._end_probe(number, float(self._value))
        self._flush(wait=False)
        now = time.perf_counter()
        took, self._last = now - self._last, now
        # The fastest of late: pauses (evaluation, a slow disk) are no part of a step.
        self._step_time = took if math.isnan(self._step_time) else min(took, 0.98 * self._step_time + 0.02 * took * 2)
        if number >= self._next or number + 1 - self.first in FIRST:
            self._arm()
        if number == self._exam:
            self._examine()

    def _arm(self) -> None:
        self.sampler.begin(self.criterion)
        self._probe_spent = self.spent

    def _end_probe(self, number: int, loss: float) -> None:
        began = time.perf_counter()
        probe = self.sampler.finish(number, loss)
        self._pool(number, probe)
        self._waiting, self._compare = probe, self.sampler.sketch is not None
        cost = self.spent - self._probe_spent + time.perf_counter() - began
        # Of several costs the least: the first probes also pay for warming up.
        self.probe_cost = cost if not self.probe_cost else min(cost, 1.1 * self.probe_cost)
        allowed = max(self.share * (self._step_time if math.isfinite(self._step_time) else 0.0), FLOOR)
        self._pause = max(2, math.ceil(self.probe_cost / (0.7 * allowed)))
        self._next = number + self._pause

    def _pool(self, number: int, probe: Probe) -> None:
        sampler = self.sampler
        if self.setting is None:
            self.setting = msgspec.structs.replace(of_model(sampler, self.criterion), **of_inputs(sampler.inputs))
            self._say(self.setting)
        target = sampler.target
        if target is None or sampler.output is None or number - self.first > POOLED:
            return
        self._targets.append(target)
        if number - self.first in (1, POOLED):
            named = "ce" if probe.numbers.get("is_ce") else "mse" if probe.numbers.get("is_mse") else ""
            known = of_targets(sampler.output.float(), self._targets, self.criterion, named)
            self.setting = msgspec.structs.replace(self.setting, batch=len(target), **known)
            self._say(self.setting)

    def _say_probe(self, probe: Probe) -> None:
        self.probes.append(probe)
        self._say(probe)

    def _flush(self, *, wait: bool) -> None:
        """Turn losses into events; those of a device are fetched together, once in a while."""
        if wait and self._waiting is not None:
            self._say_probe(self._waiting)
            self._waiting, self._compare = None, False
        if not self._pending or (not wait and isinstance(self._pending[0][1], Tensor) and len(self._pending) < 50):
            return
        pending, self._pending = self._pending, []
        values = [v for _, v, _, _ in pending]
        if any(isinstance(v, Tensor) for v in values):
            values = torch.stack([torch.as_tensor(v) for v in values]).float().tolist()
        seconds = round(time.perf_counter() - self._began, 4)
        for (number, _, rate, norm), value in zip(pending, values, strict=True):
            self.steps.append(Step(number, float(value), rate, seconds, norm))
            if self._change(float(value)) and number - self.first > FIRST[-1]:
                self._next = min(self._next, number + 1)
        if len(self.steps) > KEPT:
            self.steps = _merged(self.steps)

    def _examine(self) -> None:
        """Ask the rules; what two examinations in a row agree on is said, facts at once."""
        began = time.perf_counter()
        self._flush(wait=False)
        now = {finding.code: finding for finding in examine(self._events())[:3] if finding.severity != "note"}
        for code, finding in now.items():
            self._said[code] = self._said.get(code, 0) + 1
            if self._said[code] == 2 or (self._said[code] == 1 and finding.confidence >= 0.99):
                self._said[code] = 3
                event = Found(self.step_number, finding)
                self.found.append(event)
                self._say(event)
                if self.on_finding is not None:
                    self.on_finding(finding)
        for code in self._said.keys() - now.keys():
            self._said[code] = min(self._said[code], 0) if self._said[code] < 3 else 3
        cost = time.perf_counter() - began
        allowed = max(self.share * self._step_time, FLOOR)
        self._exam = self.step_number + max(POOLED, math.ceil(cost / (0.2 * allowed)))

    def _say(self, event: Event) -> None:
        if self._write is not None:
            self._write(event)


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    *,
    loss: nn.Module | None = None,
    steps: int | None = None,
    guard: bool | None = None,
    share: float = SHARE,
    on_finding: Callable[[Finding], None] | None = None,
    write: Callable[[Event], None] | None = None,
) -> Watch:
    """Watch a training loop of your own; `w.step(loss)` after each `optimizer.step()`, then `w.findings`.

    Arguments
    ---------
    loss : the loss module, so that outputs and targets are seen; or hand them to `w.step(loss, output=, target=)`.
    steps : how many optimizer steps are planned, where it is known. share : of the time that watching may take.
    guard : raise before a step whose gradients are not finite, naming layer and sample. By default on the CPU; on a
        GPU it costs a wait for the device each step, so it has to be asked for.
    on_finding : called with each finding that the run shows while it goes on. write : called with every event.

    Raises `InputError` when the optimizer has none of the model's parameters.

    >>> import trivet
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)); x = torch.randn(64, 2)
    >>> optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()
    >>> w = trivet.watch(model, optimizer, loss=criterion)
    >>> for _ in range(30):
    ...     loss = criterion(model(x).softmax(dim=1), (x[:, 0] > 0).long())
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); w.step(loss)
    >>> w.findings[0].code
    'TV216'
    """
    optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
    mine = {id(p) for p in model.parameters()}
    if not any(id(p) in mine for o in optimizers for g in o.param_groups for p in g["params"]):
        raise InputError(
            "the optimizer has none of the model's parameters, so it would train nothing; make it from "
            "model.parameters(), after the model was replaced, moved or loaded"
        )
    if guard is None:
        guard = next(iter(model.parameters())).device.type == "cpu"
    return Watch(model, optimizers, loss, steps=steps, guard=guard, share=share, on_finding=on_finding, write=write)


def _telling(sampler: Sampler) -> list[Tensor]:
    """Return the parameters whose gradients show a NaN first: each layer's vectors, or all it has where it has none."""
    owned = {id(p) for p in sampler.owned}
    chosen: list[Tensor] = []
    for module in sampler.modules:
        params = [p for p in module.parameters(recurse=False) if id(p) in owned]
        lazy = any(is_lazy(p) for p in params)
        vectors = [] if lazy else [p for p in params if p.ndim <= 1]
        chosen += vectors or params
    return chosen


def _rate(optimizers: Sequence[torch.optim.Optimizer]) -> float:
    group = optimizers[0].param_groups[0]
    return float(group.get("lr", math.nan))


def _merged(steps: list[Step]) -> list[Step]:
    """Join neighbours, two into one."""
    return [
        msgspec.structs.replace(b, loss=(a.loss + b.loss) / 2) for a, b in zip(steps[::2], steps[1::2], strict=False)
    ]
