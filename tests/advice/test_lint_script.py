"""Lint of a script's own objects: each mistake is found, and the same script without it is not accused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from trivet import Finding, lint
from trivet.advice.lint import RULES, page
from trivet.errors import InputError


def classes(rows: int = 128, features: int = 8, labels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, features, generator=generator), torch.randint(labels, (rows,), generator=generator)


def numbers(rows: int = 128) -> tuple[Tensor, Tensor]:
    x, _ = classes(rows)
    return x, x[:, :1] * 0.8 + 0.3 * torch.randn(rows, 1, generator=torch.Generator().manual_seed(1))


def mlp(outputs: int = 3, *ends: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs), *ends)


def deep(activation: type[nn.Module], depth: int = 12, gain: float | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for at in range(depth):
        layers += [nn.Linear(8 if at == 0 else 32, 32), activation()]
    for layer in layers:
        if gain is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
    return nn.Sequential(*layers, nn.Linear(32, 3))


def codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings}


def serious(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings if finding.severity != "note"}


def trained(model: nn.Module, cls: Callable[..., torch.optim.Optimizer], **options: float) -> list[Finding]:
    optimizer = cls(model.parameters(), **options)
    return lint(model=model, optimizer=optimizer, scheduler=CosineAnnealingLR(optimizer, 1000), steps=1000)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.functional.cross_entropy])
def test_a_softmax_before_cross_entropy_is_an_error_and_logits_are_none(loss: nn.Module) -> None:
    found = lint(model=mlp(3, nn.Softmax(1)), loss=loss, batch=classes())
    assert [(f.code, f.severity) for f in found] == [("TV105", "error")]
    assert found[0].evidence["floor"] == pytest.approx(0.5514, abs=1e-3)  # log(1 + 2 / e)
    assert lint(model=mlp(), loss=loss, batch=classes()) == []


def test_a_sigmoid_before_bce_with_logits_is_an_error_and_bce_takes_it() -> None:
    x, y = classes(labels=2)
    batch = x, y.float()[:, None]
    assert codes(lint(model=mlp(1, nn.Sigmoid()), loss=nn.BCEWithLogitsLoss(), batch=batch)) == {"TV105"}
    assert lint(model=mlp(1, nn.Sigmoid()), loss=nn.BCELoss(), batch=batch) == []
    assert "TV106" in codes(lint(model=mlp(1), loss=nn.BCELoss(), batch=batch))


def test_outputs_that_lie_between_0_and_1_by_chance_are_not_a_sigmoid() -> None:
    model = mlp(1)
    nn.init.constant_(model[-1].bias, 0.5)
    with torch.no_grad():
        model[-1].weight.mul_(0.01)
    x, y = classes(labels=2)
    assert "TV105" not in codes(lint(model=model, loss=nn.BCEWithLogitsLoss(), batch=(x, y.float()[:, None])))


def test_labels_that_begin_at_1_and_targets_that_broadcast_are_errors() -> None:
    x, y = classes()
    assert "TV107" in codes(lint(model=mlp(), loss=nn.CrossEntropyLoss(), batch=(x, y + 1)))
    x, target = numbers()
    assert "TV108" in codes(lint(model=mlp(1), loss=nn.MSELoss(), batch=(x, target[:, 0])))
    assert lint(model=mlp(1), loss=nn.MSELoss(), batch=(x, target)) == []


def test_class_weights_of_the_wrong_length_are_an_error() -> None:
    assert "TV109" in codes(lint(model=mlp(), loss=nn.CrossEntropyLoss(torch.ones(4)), batch=classes()))
    assert lint(model=mlp(), loss=nn.CrossEntropyLoss(torch.ones(3)), batch=classes()) == []


def test_nan_in_the_data_is_named_and_its_consequences_are_not() -> None:
    x, y = classes()
    x[3, 2] = float("nan")
    found = lint(model=mlp(), loss=nn.CrossEntropyLoss(), batch=(x, y))
    assert codes(found) == {"TV112"}
    assert found[0].evidence == {"bad": 1, "rows": 1}


def test_raw_units_of_inputs_and_targets_are_warned_of() -> None:
    x, y = numbers()
    scale = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 5000])
    assert "TV113" in codes(lint(model=mlp(1), loss=nn.MSELoss(), batch=(x * scale, y)))
    assert "TV113" not in codes(lint(model=nn.Sequential(nn.BatchNorm1d(8), mlp(1)), batch=(x * scale, y)))
    assert codes(lint(model=mlp(1), loss=nn.MSELoss(), batch=(x, 2e5 + 8e4 * y))) == {"TV114"}


def test_outliers_under_squared_error_are_warned_of_and_huber_is_the_fix() -> None:
    x, y = numbers(1024)
    y[:12] += 100
    found = [f for f in lint(model=mlp(1), loss=nn.MSELoss(), batch=(x, y)) if f.code == "TV104"]
    assert len(found) == 1
    assert "HuberLoss" in str(found[0].fix)
    assert "TV104" not in codes(lint(model=mlp(1), loss=nn.HuberLoss(), batch=(x, y)))


def test_l2_inside_adam_is_warned_of_and_adamw_is_not() -> None:
    assert "TV120" in codes(trained(mlp(), torch.optim.Adam, lr=1e-3, weight_decay=1e-2))
    assert serious(trained(mlp(), torch.optim.AdamW, lr=1e-3, weight_decay=1e-2)) == set()
    assert serious(trained(mlp(), torch.optim.Adam, lr=1e-3)) == set()


def test_decay_on_biases_is_noted_and_warned_of_when_it_is_much() -> None:
    light = trained(mlp(), torch.optim.AdamW, lr=1e-3, weight_decay=0.01)
    heavy = trained(mlp(), torch.optim.AdamW, lr=5e-3, weight_decay=0.5)
    assert [(f.code, f.severity) for f in light] == [("TV121", "note")]
    assert ("TV121", "warning") in [(f.code, f.severity) for f in heavy]


def test_parameters_that_the_optimizer_lacks_or_should_not_have_are_found() -> None:
    model, other = mlp(), mlp()
    cut = torch.optim.SGD(model[:3].parameters(), lr=0.1, momentum=0.9)
    found = [f for f in lint(model=model, optimizer=cut) if f.code == "TV122"]
    assert "4.weight" in found[0].message
    assert {"TV122", "TV123"} <= codes(lint(model=model, optimizer=torch.optim.SGD(other.parameters(), lr=0.1)))


def test_a_parameter_given_twice_is_an_error() -> None:
    model = mlp()
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = torch.optim.SGD([model[0].weight, *model.parameters()], lr=0.1)
    assert "TV124" in codes(lint(model=model, optimizer=optimizer))


def test_a_frozen_model_and_a_model_in_evaluation_mode_are_found() -> None:
    assert codes(lint(model=mlp().requires_grad_(False), loss=nn.CrossEntropyLoss(), batch=classes())) == {"TV125"}
    dropout = nn.Sequential(nn.Linear(8, 3), nn.Dropout(0.5))
    assert codes(lint(model=dropout.eval())) == {"TV148"}
    assert lint(model=dropout.train()) == []
    assert lint(model=mlp().eval()) == []


def test_sgd_at_adams_rate_crawls_and_adam_at_sgds_flies() -> None:
    assert "TV134" in codes(trained(mlp(), torch.optim.SGD, lr=1e-3))
    assert "TV133" in codes(trained(mlp(), torch.optim.AdamW, lr=0.1))
    assert serious(trained(mlp(), torch.optim.SGD, lr=0.1, momentum=0.9)) == set()


def test_no_scheduler_is_warned_of_unless_the_optimizer_needs_none() -> None:
    model = mlp()
    assert "TV130" in codes(lint(model=model, optimizer=torch.optim.AdamW(model.parameters())))
    assert "TV130" not in codes(lint(model=model, optimizer=torch.optim.Adadelta(model.parameters())))


def test_a_cosine_that_counts_epochs_and_is_stepped_per_batch_is_found() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    cosine = CosineAnnealingLR(optimizer, T_max=20)
    assert "TV136" in codes(lint(model=model, optimizer=optimizer, scheduler=cosine, steps=2000))
    assert lint(model=model, optimizer=optimizer, scheduler=cosine, steps=20) == []
    cycle = OneCycleLR(optimizer, max_lr=0.1, total_steps=100)
    assert "TV136" in codes(lint(model=model, optimizer=optimizer, scheduler=cycle, steps=1000))


def test_a_post_norm_transformer_needs_warmup() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    bare = lint(model=model, optimizer=optimizer, scheduler=CosineAnnealingLR(optimizer, 500), steps=500)
    assert "TV131" in serious(bare)
    warm = lint(model=model, optimizer=optimizer, scheduler=LambdaLR(optimizer, lambda t: min(1, t / 50)), steps=500)
    assert "TV131" not in codes(warm)


def test_a_large_rate_for_loaded_weights_is_warned_of_when_told_so() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    asked = {"model": model, "optimizer": optimizer, "scheduler": CosineAnnealingLR(optimizer, 500)}
    assert "TV132" in codes(lint(**asked, pretrained=True))
    assert "TV132" not in codes(lint(**asked, pretrained=False))


def test_a_deep_sigmoid_network_loses_its_gradient_and_a_he_network_keeps_it() -> None:
    batch, loss = classes(), nn.CrossEntropyLoss()
    assert "TV141" in codes(lint(model=deep(nn.Sigmoid), loss=loss, batch=batch))
    assert serious(lint(model=deep(nn.ReLU, gain=2**0.5), loss=loss, batch=batch)) == set()


def test_a_network_with_too_large_weights_explodes() -> None:
    found = lint(model=deep(nn.ReLU, gain=4.0), loss=nn.CrossEntropyLoss(), batch=classes())
    assert codes(found) == {"TV142"}
    assert float(found[0].evidence["activation growth"]) > 1e3


def test_a_first_loss_far_above_guessing_is_warned_of() -> None:
    model = mlp()
    with torch.no_grad():
        model[-1].weight.mul_(100)
    assert "TV143" in codes(lint(model=model, loss=nn.CrossEntropyLoss(), batch=classes(), pretrained=False))


def test_constant_weights_are_an_error_and_a_zero_head_is_none() -> None:
    model, head = mlp(), mlp()
    nn.init.constant_(model[0].weight, 0.1)
    nn.init.zeros_(head[-1].weight)
    assert "TV144" in codes(lint(model=model, loss=nn.CrossEntropyLoss(), batch=classes()))
    assert lint(model=head, loss=nn.CrossEntropyLoss(), batch=classes()) == []


def test_weights_that_are_all_zero_get_no_gradient() -> None:
    model = mlp()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert "TV145" in codes(lint(model=model, loss=nn.CrossEntropyLoss(), batch=classes()))


def test_a_deep_network_without_norm_whose_signal_fades_is_warned_of() -> None:
    plain = deep(nn.ReLU, depth=7)
    assert "TV146" in codes(lint(model=plain, loss=nn.CrossEntropyLoss(), batch=classes()))
    normed = nn.Sequential(*(m for layer in plain for m in ((layer, nn.LayerNorm(32)) if isinstance(layer, nn.ReLU) else (layer,))))  # fmt: skip # noqa: E501
    assert "TV146" not in codes(lint(model=normed, loss=nn.CrossEntropyLoss(), batch=classes()))


def test_dead_units_are_found_in_modules_and_in_functions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    model = Net()
    assert "TV147" not in codes(lint(model=model, loss=nn.CrossEntropyLoss(), batch=classes()))
    nn.init.constant_(model.a.bias[:24].data, -50.0)
    found = [f for f in lint(model=model, loss=nn.CrossEntropyLoss(), batch=classes()) if f.code == "TV147"]
    assert found[0].evidence["dead share"] == 0.75


def test_batch_norm_over_two_rows_is_warned_of() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    assert "TV149" in codes(lint(model=model, loss=nn.CrossEntropyLoss(), batch=classes(2)))
    assert "TV149" not in codes(lint(model=model, loss=nn.CrossEntropyLoss(), batch=classes(32)))


def test_a_first_loss_that_is_no_number_is_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return (input * 0).sum().log()

    assert "TV151" in codes(lint(model=mlp(), loss=Broken(), batch=classes()))


def test_memory_that_the_state_does_not_fit_is_an_error_with_what_to_do() -> None:
    model = nn.Linear(1000, 1000, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())  # 4 MB of weights: 16 MB with gradients and two moments
    found = [f for f in lint(model=model, optimizer=optimizer, memory=12_000_000) if f.code == "TV150"]
    assert found[0].evidence["needed GB"] == pytest.approx(0.016, rel=0.01)
    assert "8 bits" in str(found[0].fix)
    assert "TV150" not in codes(lint(model=model, optimizer=optimizer, memory=17_000_000))


def test_a_batch_that_does_not_fit_the_model_is_told_in_the_frameworks_words() -> None:
    found = lint(model=mlp(), loss=nn.CrossEntropyLoss(), batch=classes(features=9))
    assert codes(found) == {"TV140"}


def test_lint_leaves_weights_gradients_statistics_and_random_state_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    lint(model=model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters()), batch=classes())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_lint_asks_for_one_of_its_two_forms() -> None:
    with pytest.raises(InputError, match="a recipe and a task, or"):
        lint()
    with pytest.raises(InputError, match="pair"):
        lint(model=mlp(), batch=torch.zeros(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("code", sorted(RULES))
def test_every_rule_has_a_page_a_source_and_a_confidence(code: str) -> None:
    known = RULES[code]
    assert page(code).startswith(f"{code}  {known.name}")
    assert page(code).count("\n\n") >= 3, "what it is, why it happens, where it is from"
    assert known.source
    assert 0.5 <= known.confidence <= 1
