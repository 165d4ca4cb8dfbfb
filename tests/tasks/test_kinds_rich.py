"""Segmentation, sequences, text, language and embedding: what is read, and what is refused in one line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trivet.errors import InputError
from trivet.recipes import Edit, Recipe
from trivet.tasks import KINDS, Preprocessing, Task, read_task
from trivet.training import train

pytestmark = pytest.mark.app

polars = pytest.importorskip("polars")
images = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)


def one_line(action: Callable[[], object], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message, message
    for word in words:
        assert word in message, message


def discs(rows: int, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs on noise, and their masks."""
    y, x = np.mgrid[:size, :size]
    masks = np.stack([(y - a) ** 2 + (x - b) ** 2 < 16 for a, b in RNG.uniform(4, size - 4, (rows, 2))])
    pictures = RNG.normal(60, 20, (rows, size, size)) + 120 * masks
    return pictures.clip(0, 255).astype(np.uint8), masks.astype(np.uint8)


def save_images(folder: Path, pictures: np.ndarray, ending: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for at, picture in enumerate(pictures):
        images.fromarray(picture).save(folder / f"{at:03}.{ending}")


# -- segmentation ---------------------------------------------------------------------------------


def test_masks_make_a_segmentation_that_learns() -> None:
    pictures, masks = discs(60)
    task = Task.from_arrays(pictures, masks * 255)
    assert (task.kind, task.outputs, task.classes, task.metric.name) == ("segmentation", 2, ("0", "255"), "iou")
    recipe = Recipe(loss="cross_entropy + dice_loss", optimizer={"name": "AdamW", "lr": 1e-2}, batch_size=12, epochs=6)
    outcome = train(task, recipe)
    trivial, simple = task.baselines()
    assert trivial.value < 0.5
    assert simple.value > trivial.value
    assert outcome.metric > trivial.value


def test_images_beside_masks_are_read_and_predicted_in_their_size(tmp_path: Path) -> None:
    pictures, masks = discs(30)
    save_images(tmp_path / "images", pictures)
    save_images(tmp_path / "masks", masks * 255)
    task = read_task(str(tmp_path))
    assert (task.kind, task.outputs) == ("segmentation", 2)
    everything = torch.cat([split.targets for split in (task.train, task.val, task.test)])
    assert int(everything.sum()) == int(masks.sum())
    assert task.preprocessing is not None
    raw, names = task.preprocessing.read(tmp_path)
    assert names["file"][7] == "007.png"
    assert task.preprocessing.encode(raw).shape == (30, 1, 16, 16)


def test_masks_that_do_not_fit_are_said(tmp_path: Path) -> None:
    pictures, masks = discs(20)
    save_images(tmp_path / "images", pictures)
    save_images(tmp_path / "masks", masks[:, :12] * 255)
    one_line(lambda: read_task(str(tmp_path)), "000.png", "12 x 16", "16 x 16")
    (tmp_path / "masks" / "004.png").unlink()
    one_line(lambda: read_task(str(tmp_path)), "004.png", "no mask")
    one_line(lambda: Task.from_arrays(pictures, masks[:, :12]), "(20, 12, 16)", "16 x 16")
    one_line(lambda: Task.from_arrays(pictures, np.zeros_like(masks)), "one class only")
    noisy = RNG.integers(0, 200, masks.shape)
    one_line(lambda: Task.from_arrays(pictures, noisy), "JPEG")


def test_a_label_outside_of_the_palette_is_said() -> None:
    pictures, masks = discs(40)
    wrong = masks[:8].copy()
    wrong[3, 2, 2] = 7
    one_line(lambda: Task.from_arrays(pictures, masks, pictures[:8], wrong), "outside of the palette", "7")


def test_a_void_label_takes_no_part() -> None:
    pictures, masks = discs(30)
    labels = masks.astype(int) + (masks == 0) * (RNG.random(masks.shape) < 0.1) * 2
    labels[:, 0] = 255
    task = Task.from_arrays(pictures, labels)
    assert task.outputs == 3
    assert bool((task.train.targets[:, 0] == -100).all())


# -- folders of classes ---------------------------------------------------------------------------


def test_class_named_folders_make_a_classification(tmp_path: Path) -> None:
    for name, level in (("dark", 40), ("light", 200), ("mid", 120)):
        save_images(tmp_path / name, RNG.normal(level, 10, (12, 14, 20)).clip(0, 255).astype(np.uint8))
    task = read_task(str(tmp_path))
    assert (task.kind, task.classes) == ("multiclass", ("dark", "light", "mid"))
    inputs, _ = task.train.batch(torch.arange(2))
    assert isinstance(inputs, torch.Tensor)
    assert inputs.shape == (2, 1, 14, 20)
    # The darkest images are the ones labelled so: names and files were not mixed up.
    level = torch.cat([split.inputs.mean(dim=(1, 2, 3)) for split in (task.train, task.val, task.test)])  # type: ignore
    label = torch.cat([split.targets for split in (task.train, task.val, task.test)])
    assert float(level[label == 0].max()) < float(level[label == 2].min()) < float(level[label == 1].min())


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_images(tmp_path / name, RNG.integers(0, 255, (15, 12, 12)).astype(np.uint8))
    path = tmp_path / "b" / "003.png"
    path.write_bytes(path.read_bytes()[:60])
    one_line(lambda: read_task(str(tmp_path)), "003.png", "cannot be read")
    path.write_bytes(b"")
    one_line(lambda: read_task(str(tmp_path)), "003.png")
    path.unlink()
    (tmp_path / "c").mkdir()
    assert read_task(str(tmp_path)).classes == ("a", "b")
    one_line(lambda: read_task(str(tmp_path / "a")), "CLASS", "masks")


def test_an_image_that_unfolds_without_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        save_images(tmp_path / name, RNG.integers(0, 255, (10, 40, 40)).astype(np.uint8))
    monkeypatch.setattr("trivet.tasks.folders.MOST_PIXELS", 1000)
    one_line(lambda: read_task(str(tmp_path)), "40 x 40 pixels", "1,000")


# -- sequences ------------------------------------------------------------------------------------


def waves(rows: int, channels_first: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths, label = RNG.integers(6, 21, rows), np.arange(rows) % 2
    x = RNG.normal(size=(rows, 20, 2)).astype(np.float32) * 0.3
    x[..., 0] += np.where(label, 1, -1)[:, None]
    for row, size in enumerate(lengths):
        x[row, size:] = 1e6  # what lies past the end must not be looked at
    lengths[0] = 20
    x[0] = RNG.normal(size=(20, 2)) * 0.3
    return (x.transpose(0, 2, 1) if channels_first else x), lengths, label


@pytest.mark.parametrize("channels_first", [True, False])
def test_padded_sequences_are_read_in_either_layout(channels_first: bool, tmp_path: Path) -> None:
    x, lengths, label = waves(80, channels_first)
    np.savez(tmp_path / "waves.npz", X_train=x, y_train=label, n_train=lengths)
    task = read_task(str(tmp_path / "waves.npz"))
    inputs, _ = task.train.batch(torch.arange(4))
    assert inputs[0].shape == (4, 20, 2)
    assert float(inputs[0].abs().max()) < 10
    assert task.make_model(0)(*inputs).shape == (4, 1)
    assert task.baselines()[1].value > 0.9


def test_padding_does_not_change_an_answer() -> None:
    x, lengths, label = waves(60, False)
    model = Task.from_arrays(x, label, lengths=lengths).make_model(0).eval()
    steps, sizes = torch.randn(3, 9, 2), torch.tensor([9, 4, 6])
    noisy = torch.cat([steps, 1e3 * torch.randn(3, 5, 2)], dim=1)
    noisy[1, 4:], noisy[2, 6:] = 1e3, -1e3
    assert torch.allclose(model(steps, sizes), model(noisy, sizes), atol=1e-5)


def test_lengths_that_do_not_fit_are_said() -> None:
    x, lengths, label = waves(60, False)
    for bad, word in ((21, "21 in row 6"), (0, "0 in row 6")):
        wrong = lengths.copy()
        wrong[5] = bad
        one_line(lambda wrong=wrong: Task.from_arrays(x, label, lengths=wrong), word, "1 to 20")
    one_line(lambda: Task.from_arrays(x, label, lengths=lengths[:-1]), "60 whole numbers")
    x[4, 2, 1] = np.nan
    one_line(lambda: Task.from_arrays(x, label, lengths=lengths), "row 5, step 3")


# -- text -----------------------------------------------------------------------------------------

GREETINGS = [
    f"good {part} to you all, dear {who}" for part in ("morning", "day", "evening") for who in map(str, range(20))
]
QUESTIONS = [f"where is my {what} number {n} please?" for what in ("card", "money", "refund") for n in range(20)]


def letters() -> polars.DataFrame:
    return polars.DataFrame({"text": GREETINGS + QUESTIONS, "label": ["greeting"] * 60 + ["question"] * 60})


def test_a_table_of_texts_is_classified_with_its_own_vocabulary() -> None:
    task = Task.from_text(letters(), target="label")
    assert task.kind == "binary"
    inputs, _ = task.train.batch(torch.arange(4))
    assert isinstance(inputs, torch.Tensor)
    assert inputs.dtype == torch.int64
    assert task.make_model(0)(inputs).shape == (4, 1)
    assert task.baselines()[1].name == "TF-IDF + logistic regression"
    assert task.baselines()[1].value > 0.95


def test_the_tf_idf_view_is_that_of_scikit_learn() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    task = Task.from_text(letters(), target="label")
    fitted = task.preprocessing
    assert fitted is not None
    ours = fitted.matrix(task.train.inputs).toarray()  # type: ignore[arg-type, union-attr]
    texts = [" ".join(map(str, row[row > 0].tolist())) for row in task.train.inputs.numpy()]  # type: ignore[union-attr]
    theirs = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\d+").fit(texts)
    expected = np.zeros_like(ours)
    for word, column in theirs.vocabulary_.items():
        expected[:, int(word)] = theirs.transform(texts).toarray()[:, column]
    assert ours == pytest.approx(expected, abs=1e-4)


def test_words_that_training_lacks_are_written_in_pieces_and_empty_texts_have_an_id() -> None:
    task = Task.from_text(letters(), target="label")
    assert task.preprocessing is not None
    fitted = Preprocessing.from_dict(task.preprocessing.to_dict())
    encoded = fitted.encode(["morningday", "", "ж", "good morning"])
    assert int((encoded[0] > 1).sum()) >= 2
    assert encoded[1].tolist()[:2] == [1, 0]
    assert encoded[2].tolist()[:2] == [1, 0]
    assert len(set(encoded[3][:2].tolist())) == 2
    model = task.make_model(0).eval()
    assert bool(model(encoded).isfinite().all())


def test_nothing_of_a_test_text_enters_the_vocabulary() -> None:
    test = polars.DataFrame({"text": ["xylophone quartz"] * 10, "label": ["greeting", "question"] * 5})
    task = Task.from_table(letters(), "label", test=test)
    assert "xylophone" not in str(task.preprocessing.to_dict())  # type: ignore[union-attr]


def test_texts_that_say_nothing_are_refused() -> None:
    empty = polars.DataFrame({"text": [" "] * 60, "n": range(60), "label": ["a", "b"] * 30})
    one_line(lambda: Task.from_table(empty, "label", text="text"), "empty")
    one_line(lambda: Task.from_table(letters(), "label", text="texts"), "did you mean 'text'")


def test_a_folder_of_train_and_test_tables_is_one_task(tmp_path: Path) -> None:
    letters().write_csv(tmp_path / "train.csv")
    letters().sample(30, seed=1).write_csv(tmp_path / "test.csv")
    task = read_task(str(tmp_path), target="label")
    assert len(task.test) == 30
    assert len(task.train) + len(task.val) == 120


# -- language -------------------------------------------------------------------------------------

LINE = "the quick brown fox jumps over the lazy dog, and the dog sleeps. "


def test_a_text_file_makes_a_language_model(tmp_path: Path) -> None:
    (tmp_path / "fox.txt.gz").write_bytes(gzip.compress((LINE * 200).encode()))
    task = read_task(str(tmp_path / "fox.txt.gz"))
    assert (task.kind, task.metric.name, task.outputs) == ("language", "bits_per_character", len(set(LINE)) + 1)
    inputs, targets = task.train.batch(torch.arange(2))
    assert torch.equal(inputs[:, 1:], targets[:, :-1])  # type: ignore[index]
    unigram, bigram = task.baselines()
    # The entropy of the characters themselves, from their counts.
    share = np.unique(list(LINE), return_counts=True)[1] / len(LINE)
    assert unigram.value == pytest.approx(-(share * np.log2(share)).sum(), abs=0.02)
    assert bigram.value < 0.6 * unigram.value


def test_the_model_of_text_sees_nothing_that_comes_later() -> None:
    model = Task.from_text(LINE * 100, length=32).make_model(0).eval()
    ids = torch.randint(0, 20, (2, 32))
    changed = ids.clone()
    changed[:, 20:] = 3
    before, after = model(ids), model(changed)
    assert torch.allclose(before[:, :, :20], after[:, :, :20], atol=1e-5)
    assert not torch.allclose(before[:, :, 20:], after[:, :, 20:], atol=1e-3)


def test_text_files_that_are_none_are_said(tmp_path: Path) -> None:
    for name, content, word in (
        ("short.txt", b"to be", "at least"),
        ("bytes.txt", bytes(range(256)) * 100, "UTF-8"),
        ("empty.txt", b" \n", "empty"),
        ("cut.txt.gz", gzip.compress(LINE.encode() * 500)[:80], "cut short"),
    ):
        (tmp_path / name).write_bytes(content)
        one_line(lambda name=name: read_task(str(tmp_path / name)), word)
    one_line(lambda: Task.from_text("a" * 10_000), "one symbol")


# -- embedding ------------------------------------------------------------------------------------


def test_an_embedding_is_judged_on_classes_that_training_lacks() -> None:
    x, y = RNG.normal(size=(200, 6)), np.repeat(np.arange(20), 10)
    task = Task.from_arrays(x + y[:, None] % 3, y, kind="embedding")
    groups = [set(split.targets.tolist()) for split in (task.train, task.val, task.test)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 20
    assert [b.name for b in task.baselines()] == ["random vectors", "raw inputs"]


def test_a_batch_of_an_embedding_holds_pairs() -> None:
    labels = torch.arange(50).repeat_interleave(10)
    order = KINDS["embedding"].order(labels, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(500))
    batch = labels[order[:64]]
    alone = sum(int((batch == label).sum()) == 1 for label in batch)
    assert alone <= 2
    again = KINDS["embedding"].order(labels, torch.Generator().manual_seed(0))
    assert torch.equal(order, again)


def test_a_sum_of_losses_is_the_sum() -> None:
    recipe = Recipe(loss="cross_entropy + 0.5 * dice_loss", optimizer={"name": "SGD", "lr": 0.1})
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    from trivet.losses import cross_entropy, dice_loss

    value = recipe.build(torch.nn.Linear(1, 1), steps=1).loss(logits, labels)
    assert float(value) == pytest.approx(float(cross_entropy(logits, labels) + 0.5 * dice_loss(logits, labels)))
    assert recipe.apply(Edit("loss.smooth", 1.0)).build(torch.nn.Linear(1, 1), steps=1).loss is not None
    one_line(lambda: recipe.apply(Edit("loss.smoth", 1.0)), "did you mean 'smooth'")
    one_line(lambda: recipe.apply(Edit("loss.name", "cross_entropy + dise_loss")), "did you mean 'dice_loss'")
    one_line(lambda: recipe.apply(Edit("loss.name", "x * cross_entropy")), "no weight")
