"""Wrong labels and unlike splits are estimated near what was put in, and nothing is seen where nothing is."""

from __future__ import annotations

import pytest
import torch

from trivet.facts.doubt import drift, label_noise

pytestmark = pytest.mark.app


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_noise_put_into_real_labels_is_found_within_a_fifth_of_it(share: float) -> None:
    x, y = digits()
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(y), generator=generator) < share
    shifted = (y + torch.randint(1, 10, y.shape, generator=generator)) % 10
    found = label_noise(x, torch.where(wrong, shifted, y), 10)
    assert found is not None
    estimate, error = found
    assert estimate == pytest.approx(float(wrong.float().mean()), abs=0.02 + 0.2 * share)
    assert 0 < error < 0.02


def test_labels_that_inputs_say_nothing_about_are_not_called_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2000, 5, generator=generator), (torch.rand(2000, generator=generator) < 0.1).long()
    found = label_noise(x, y, 2)
    assert found is not None
    assert found[0] < 0.03


@pytest.mark.parametrize("change", [lambda x: x + 0.5, lambda x: x * 1.6])
def test_a_moved_or_stretched_split_is_told_apart_and_a_random_one_is_not(change: object) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(1000, 4, generator=generator), torch.randn(600, 4, generator=generator)
    alike, moved = drift(one, other), drift(one, change(other))  # type: ignore[operator]
    assert alike is not None
    assert moved is not None
    assert abs(alike[0] - 0.5) < 4 * alike[1]
    assert moved[0] - 0.5 > 4 * moved[1]


def test_too_few_rows_give_no_estimate() -> None:
    assert label_noise(torch.randn(50, 3), torch.arange(50) % 2, 2) is None
    assert drift(torch.randn(100, 3), torch.randn(10, 3)) is None
