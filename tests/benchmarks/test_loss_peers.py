"""The table against other libraries is fair: ours follows the formula that both are judged by, on every input."""

from __future__ import annotations

import pytest
import torch

from benchmarks.loss_peers import CASES, INPUTS, LIBRARIES, Case, errors


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.title} of {case.library}")
def test_ours_follows_the_formula_of_the_peers_convention(case: Case) -> None:
    assert case.library in LIBRARIES
    for name, size, dtype in INPUTS:
        torch.manual_seed(1)
        x, t = case.batch(size, False)
        found = errors(case.ours, case.formula, x.to(dtype), t)
        rough = name == "half"
        assert float(found["value"]) < (1e-3 if rough else 2e-6), name
        assert float(found["gradient"]) < (1e-2 if rough else 2e-5), name


def test_a_loss_that_breaks_or_gives_nan_is_said_and_not_left_out() -> None:
    x, t = torch.randn(5), torch.randn(5)
    mean = CASES[0].formula
    assert errors(lambda x, t: (x * torch.nan).sum(), mean, x, t)["value"] == "NaN or infinite"

    def refuses(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise ValueError

    assert errors(refuses, mean, x, t)["value"] == "raises ValueError"
