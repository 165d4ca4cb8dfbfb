"""Recipes are plain data: comparable, changed by edits, written and read without loss, and strict."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.errors import RecipeError
from trivet.recipes import Advice, Edit, Recipe

FULL = """
schema = 1
loss = {name = "huber_loss", delta = 0.5}
optimizer = {name = "AdamW", lr = 1e-3, weight_decay = 0.01, betas = [0.9, 0.98]}
schedule = "warmup(0.05) >> cosine(floor=0.01)"
batch_size = 64
epochs = 2.5
clip = {norm = 1.0}
groups = {no_decay = ["bias", "norm"], layer_decay = 0.9}
precision = "bfloat16"
accumulate = 2
"""


def plain(**changes: object) -> Recipe:
    return Recipe(**({"loss": "mse_loss", "optimizer": {"name": "SGD", "lr": 0.1}} | changes))  # type: ignore[arg-type]


def test_a_recipe_survives_toml_unchanged() -> None:
    recipe = Recipe.from_toml(FULL)
    assert recipe.optimizer["lr"] == 1e-3
    assert recipe.epochs == 2.5
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert hash(Recipe.from_toml(recipe.to_toml())) == hash(recipe)


@given(
    lr=st.floats(1e-8, 1e3),
    batch=st.integers(1, 10**6),
    epochs=st.floats(0.01, 1e4),
    decay=st.floats(0, 1),
    norm=st.none() | st.floats(1e-3, 1e3),
)
def test_any_numbers_survive_toml(lr: float, batch: int, epochs: float, decay: float, norm: float | None) -> None:
    recipe = plain(
        optimizer={"name": "AdamW", "lr": lr, "weight_decay": decay},
        batch_size=batch,
        epochs=epochs,
        clip=None if norm is None else {"norm": norm},
    )
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_defaults_are_left_out_of_the_file() -> None:
    assert plain().to_toml().splitlines() == [
        "schema = 1",
        'loss = {name = "mse_loss"}',
        'optimizer = {name = "SGD", lr = 0.1}',
    ]


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(AttributeError):
        plain().epochs = 3  # type: ignore[misc]


def test_save_and_load_go_through_a_file(tmp_path: Path) -> None:
    path = plain().save(tmp_path / "recipe.toml")
    assert Recipe.load(path) == plain()
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("epoch = 3", ["unknown field 'epoch'", "did you mean 'epochs'"]),
        ('loss = {name = "mse_los"}', ["unknown loss 'mse_los'", "did you mean 'mse_loss'"]),
        ('loss = {name = "huber_loss", detla = 1.0}', ["no parameter 'detla'", "did you mean 'delta'"]),
        ('optimizer = {name = "adamw"}', ["unknown optimizer 'adamw'", "did you mean 'AdamW'"]),
        ('optimizer = {name = "AdamW", lr = "1e-3"}', ["optimizer.lr", "number", "without quotes"]),
        ('optimizer = {name = "AdamW", lr = -1.0}', ["above 0"]),
        ("optimizer = {lr = 1e-3}", ["no name"]),
        ('batch_size = "64"', ["batch_size", "expected `int`", "without quotes"]),
        ("batch_size = 0", ["batch_size = 0", "above 0"]),
        ("epochs = inf", ["epochs", "finite"]),
        ("clip = {nrom = 1.0}", ["unknown clip 'nrom'", "did you mean 'norm'"]),
        ('groups = {no_decay = ["bais"]}', ["unknown family 'bais'", "did you mean 'bias'"]),
        ("groups = {layer_decay = 2.0}", ["layer_decay", "(0, 1]"]),
        ('precision = "float16"', ["precision"]),
        ('schedule = "cosin()"', ["cosin", "cosine"]),
        ("schema = 99", ["schema = 99"]),
        ("loss = ", ["not valid TOML"]),
    ],
)
def test_a_wrong_recipe_gets_one_clear_line(line: str, words: list[str]) -> None:
    key = line.split(" ")[0]
    base = {"loss": 'loss = {name = "mse_loss"}', "optimizer": 'optimizer = {name = "SGD", lr = 0.1}'}
    text = "\n".join([line, *(value for name, value in base.items() if name != key)])
    with pytest.raises(RecipeError) as caught:
        Recipe.from_toml(text)
    message = str(caught.value)
    assert "\n" not in message or "TOML" in message
    for word in words:
        assert word in message


def test_missing_files_and_binary_files_are_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        Recipe.load(tmp_path / "none.toml")
    (tmp_path / "noise.toml").write_bytes(bytes([0xFF, 0xFE, 0x00]))
    with pytest.raises(RecipeError, match="not text"):
        Recipe.load(tmp_path / "noise.toml")


def test_edits_reach_fields_and_parameters_and_can_remove() -> None:
    recipe = plain(clip={"norm": 1.0}).apply(
        Edit("optimizer.momentum", 0.9),
        Edit("epochs", 3),
        Edit("clip", None),
        Edit("loss", {"name": "huber_loss"}),
    )
    assert recipe.optimizer == {"name": "SGD", "lr": 0.1, "momentum": 0.9}
    assert (recipe.epochs, recipe.clip, recipe.loss["name"]) == (3, None, "huber_loss")


def test_an_edit_to_nowhere_is_refused() -> None:
    with pytest.raises(RecipeError, match="unknown field 'epcohs'"):
        plain().apply(Edit("epcohs", 3))
    with pytest.raises(RecipeError, match="epochs"):
        plain().apply(Edit("epochs.number", 3))


def test_differences_are_the_edits_between_two_recipes() -> None:
    one, other = plain(), plain(epochs=7, loss={"name": "huber_loss", "delta": 2.0}, clip={"norm": 1.0})
    edits = one.differences(other)
    assert one.apply(*edits) == other
    assert other.apply(*other.differences(one)) == one


def test_reasons_stand_beside_the_recipe_and_the_later_one_wins() -> None:
    first = Advice(Edit("optimizer.lr", 0.01), "a guess", confidence=0.3)
    second = Advice(Edit("optimizer.lr", 0.02), "a measurement", {"edge": 0.2}, "range test", 0.9, {"0.01": "slow"})
    recipe = plain().advise(first).advise(second)
    assert recipe.why == (second,)
    assert recipe == plain().apply(second.edit)
    text = recipe.explain()
    for word in ("a measurement", "edge 0.2", "range test", "Not 0.01: slow", "sure"):
        assert word in text
    assert "a guess" not in text


def test_explain_fits_a_terminal() -> None:
    advice = Advice(Edit("epochs", 5), "word " * 80)
    assert all(len(line) <= 88 for line in plain().advise(advice).explain().splitlines())


def test_a_parameter_that_a_later_advice_decides_is_not_stated_twice() -> None:
    whole = Advice(Edit("optimizer", {"name": "AdamW", "lr": 1e-3}), "robust")
    rate = Advice(Edit("optimizer.lr", 0.02), "measured")
    text = plain().advise(whole).advise(rate).explain()
    assert '* optimizer = {name = "AdamW"}' in text
    assert "0.001" not in text
    assert "* optimizer.lr = 0.02" in text
