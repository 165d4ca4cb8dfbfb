"""torch's own description of its optimizers (`OptimizerInfo`), run on ours: its inputs, its errors, its schedulers."""

# ruff: noqa: PT009, PT027 - torch's TestCase compares nested tensors, which is what is wanted here
from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trivet import optim

pytest.importorskip("expecttest")

from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db, optims
from torch.testing._internal.common_utils import TestCase

NAMES = ("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")


def ours(info: OptimizerInfo) -> OptimizerInfo:
    """Return the description of torch's optimizer with our class in it."""
    return OptimizerInfo(
        getattr(optim, info.optim_cls.__name__),
        optim_inputs_func=info.optim_inputs_func,
        scheduler_inputs=info.scheduler_inputs,
        supported_impls=(),
        supports_complex=info.supports_complex,
        optim_error_inputs_func=info.optim_error_inputs_func,
    )


INFOS = [ours(info) for info in optim_db if info.optim_cls.__name__ in NAMES]


def inputs(info: OptimizerInfo, device: str) -> list[dict[str, Any]]:
    """Return torch's constructor arguments, without those that stand for its own ways of execution."""
    found = [copy.deepcopy(given.kwargs) for given in info.optim_inputs_func(device=device)]
    return [k for k in found if not (k.get("capturable") or k.get("differentiable") or k.get("fused"))]


class TestOurs(TestCase):
    def parameters(self, dtype: torch.dtype) -> list[nn.Parameter]:
        torch.manual_seed(3)
        return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((10, 5), (10,), ())]

    def run_steps(self, optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int = 6) -> None:
        generator = torch.Generator().manual_seed(7)
        for _ in range(steps):
            for p in params:
                p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            optimizer.step()

    @optims(INFOS, dtypes=[torch.float64, torch.complex128])
    def test_all_of_torchs_inputs_give_torchs_results(self, device, dtype, optim_info) -> None:  # type: ignore[no-untyped-def]
        if dtype.is_complex and not optim_info.supports_complex:
            self.skipTest("torch has none of this type")
        theirs = getattr(torch.optim, optim_info.name)
        made = inputs(optim_info, device)
        self.assertGreater(len(made), 1)
        for kwargs in made:
            a, b = self.parameters(dtype), self.parameters(dtype)
            self.run_steps(optim_info.optim_cls(a, **copy.deepcopy(kwargs)), a)
            self.run_steps(theirs(b, foreach=False, **copy.deepcopy(kwargs)), b)
            for x, y in zip(a, b, strict=True):
                # 1e-6: NAdam's product of momenta is kept in single precision by both.
                self.assertEqual(x, y, rtol=1e-6 if optim_info.name == "NAdam" else 1e-9, atol=1e-10, msg=str(kwargs))

    @optims(INFOS)
    def test_torchs_bad_inputs_are_refused(self, device, dtype, optim_info) -> None:  # type: ignore[no-untyped-def]
        refused = 0
        for error in optim_info.optim_error_inputs_func(device=device, dtype=dtype):
            kwargs, params = error.optimizer_error_input.kwargs, error.optimizer_error_input.params
            if kwargs.get("foreach") or kwargs.get("fused") or kwargs.get("capturable"):
                continue  # these choose among torch's executions, and are accepted without effect or refused by name
            if any(isinstance(beta, Tensor) for beta in kwargs.get("betas", ())):
                continue  # torch wants both as tensors or none, for its graphs; here any number will do
            if error.error_on.name != "CONSTRUCTION_ERROR":
                continue
            params = self.parameters(torch.float32) if params is None else params
            warned = issubclass(error.error_type, Warning)
            with (self.assertWarns if warned else self.assertRaises)(error.error_type, msg=str(kwargs)):
                optim_info.optim_cls(params, **kwargs)
            refused += 1
        self.assertGreater(refused, 2)

    @optims(INFOS)
    def test_it_goes_the_right_way_under_torchs_schedulers(self, device, dtype, optim_info) -> None:  # type: ignore[no-untyped-def]
        for schedulers in optim_info.scheduler_inputs:
            weight, bias = nn.Parameter(torch.randn(10, 5)), nn.Parameter(torch.randn(10))
            x = torch.randn(5)
            optimizer = optim_info.optim_cls([weight, bias], lr=0.01)
            made = [make(optimizer) for make in schedulers]

            def closure(
                optimizer: torch.optim.Optimizer = optimizer,
                weight: Tensor = weight,
                bias: Tensor = bias,
                x: Tensor = x,
            ) -> Tensor:
                optimizer.zero_grad()
                loss = (weight.mv(x) + bias).pow(2).sum()
                loss.backward()
                return loss

            first = float(closure().detach())
            for _ in range(20):
                loss = optimizer.step(closure)
                for scheduler in made:
                    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                        scheduler.step(loss.detach())
                    else:
                        scheduler.step()
            self.assertLess(float(closure().detach()), first)

    @optims(INFOS)
    def test_states_are_saved_as_plain_weights_and_older_ones_load(self, device, dtype, optim_info) -> None:  # type: ignore[no-untyped-def]
        for kwargs in inputs(optim_info, device):
            params = self.parameters(dtype)
            optimizer = optim_info.optim_cls(params, **copy.deepcopy(kwargs))
            self.run_steps(optimizer, params)
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            self.assertEqual(saved, optimizer.state_dict())
            # What was saved before these options existed lacks them.
            for group in saved["param_groups"]:
                for flag in ("foreach", "fused", "maximize", "capturable", "differentiable", "convention"):
                    group.pop(flag, None)
            again = optim_info.optim_cls(params, **copy.deepcopy(kwargs))
            again.load_state_dict(saved)
            self.run_steps(again, params, 1)

    @optims(INFOS)
    def test_nothing_moves_without_gradients(self, device, dtype, optim_info) -> None:  # type: ignore[no-untyped-def]
        for kwargs in inputs(optim_info, device):
            params = self.parameters(dtype)
            before = [p.detach().clone() for p in params]
            optim_info.optim_cls(params, **copy.deepcopy(kwargs)).step()
            self.assertEqual([p.detach() for p in params], before, rtol=0, atol=0)

    @optims(INFOS)
    def test_hooks_run_around_the_step_and_the_state(self, device, dtype, optim_info) -> None:  # type: ignore[no-untyped-def]
        params = self.parameters(dtype)
        optimizer = optim_info.optim_cls(params)
        heard: list[str] = []
        optimizer.register_step_pre_hook(lambda *_: heard.append("before"))
        optimizer.register_step_post_hook(lambda *_: heard.append("after"))
        optimizer.register_state_dict_post_hook(lambda *_: heard.append("saved"))
        optimizer.register_load_state_dict_pre_hook(lambda *_: heard.append("loading"))
        optimizer.register_load_state_dict_post_hook(lambda *_: heard.append("loaded"))
        self.run_steps(optimizer, params, 1)
        optimizer.load_state_dict(optimizer.state_dict())
        self.assertEqual(heard, ["before", "after", "saved", "loading", "loaded"])

    @optims(INFOS)
    def test_a_rate_may_be_a_tensor(self, device, dtype, optim_info) -> None:  # type: ignore[no-untyped-def]
        a, b = self.parameters(dtype), self.parameters(dtype)
        rate = torch.tensor(0.01)
        self.run_steps(optim_info.optim_cls(a, lr=rate), a)
        self.run_steps(optim_info.optim_cls(b, lr=float(rate)), b)
        self.assertEqual(a, b, rtol=0, atol=0)
        self.assertEqual(float(rate), float(torch.tensor(0.01)))

    @optims(INFOS)
    def test_sparse_gradients_are_named(self, device, dtype, optim_info) -> None:  # type: ignore[no-untyped-def]
        w = nn.Parameter(torch.randn(4, 2))
        w.grad = torch.randn(4, 2).to_sparse()
        with self.assertRaisesRegex(ValueError, "sparse"):
            optim_info.optim_cls([w]).step()


instantiate_device_type_tests(TestOurs, globals(), only_for="cpu")
