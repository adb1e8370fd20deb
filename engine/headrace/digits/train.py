"""Trains the bundled digits model and writes what lies beside it: weights, samples, the held-out images, metrics.json.

    python -m headrace.digits.train        needs scikit-learn, for the images and their split; a few seconds

A network of one hidden layer in plain numpy, with Adam and with images shifted by up to a pixel. Everything random
hangs on SEED, so a run on the same versions writes the same files. The held-out images are looked at once, at the end.
"""

import importlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from headrace.digits.model import INK, Digits

HERE = Path(__file__).parent
SEED = 20
HELD_OUT_SHARE = 0.2
HIDDEN = 128
EPOCHS = 150
BATCH = 32
RATE = 2e-3  # Adam's step; falls to zero along a half cosine
DECAY = 1e-4  # of the weights, per step and unit of rate: decoupled from the gradient

Array = npt.NDArray[Any]


def main() -> None:
    images, digits, held_out, held_out_digits = split()
    weights = train(images, digits)
    np.savez(HERE / "weights.npz", **cast(dict[str, Any], weights))
    np.savez_compressed(HERE / "held_out.npz", images=held_out, digits=held_out_digits)

    model = Digits()
    model.load(HERE)
    answers = model.predict(held_out.astype(np.float32))
    accuracy = float((answers == held_out_digits).mean())
    write_samples(held_out, held_out_digits, answers)
    metrics = {
        "accuracy": round(accuracy, 4),
        "held_out_images": len(held_out),
        "training_images": len(images),
        "parameters": sum(array.size for array in weights.values()),
        "weights_bytes": (HERE / "weights.npz").stat().st_size,
        "seed": SEED,
        "versions": {
            "python": platform.python_version(),
            "numpy": version("numpy"),
            "scikit-learn": version("scikit-learn"),
        },
    }
    (HERE / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(f"right on {accuracy:.2%} of {len(held_out)} held-out images")


def split() -> tuple[Array, Array, Array, Array]:
    """Training images uint8 (n, 64) and digits (n,), then the held-out ones; each digit has the same share in both."""
    data: Any = importlib.import_module("sklearn.datasets").load_digits()
    train_test_split: Any = importlib.import_module("sklearn.model_selection").train_test_split
    images, digits = data.data.astype(np.uint8), data.target.astype(np.uint8)
    images, held_out, digits, held_out_digits = train_test_split(
        images, digits, test_size=HELD_OUT_SHARE, random_state=SEED, stratify=digits
    )
    return images, digits, held_out, held_out_digits


def train(images: Array, digits: Array) -> dict[str, Array]:
    """Weights of Digits, by name, float32. images: uint8 (n, 64); digits: (n,)."""
    random = np.random.default_rng(SEED)
    weights = {
        "w1": random.normal(0, np.sqrt(2 / 64), (64, HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": random.normal(0, np.sqrt(1 / HIDDEN), (HIDDEN, 10)),
        "b2": np.zeros(10),
    }
    mean = {name: np.zeros_like(array) for name, array in weights.items()}
    square = {name: np.zeros_like(array) for name, array in weights.items()}
    wanted = np.eye(10)[digits]
    steps = EPOCHS * (len(images) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        order = random.permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            step += 1
            chosen = order[start : start + BATCH]
            gradients = _gradients(weights, _shifted(images[chosen], random) / INK, wanted[chosen])
            rate = RATE * (1 + np.cos(np.pi * step / steps)) / 2
            for name, gradient in gradients.items():
                mean[name] += 0.1 * (gradient - mean[name])
                square[name] += 0.001 * (gradient**2 - square[name])
                move = mean[name] / (1 - 0.9**step) / (np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8)
                weights[name] -= rate * (move + DECAY * weights[name])
    return {name: array.astype(np.float32) for name, array in weights.items()}


def _shifted(images: Array, random: np.random.Generator) -> Array:
    """Each image moved by -1, 0 or 1 pixel along both axes, paper coming in at the edges."""
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    rows, columns = random.integers(0, 3, (2, len(images), 1, 1))
    steps = np.arange(8)
    shifted: Array = padded[np.arange(len(images))[:, None, None], rows + steps[:, None], columns + steps]
    return shifted.reshape(-1, 64)


def _gradients(weights: dict[str, Array], x: Array, wanted: Array) -> dict[str, Array]:
    """Of the mean cross-entropy. x: (n, 64) in 0..1; wanted: (n, 10), a one in each row."""
    hidden = np.maximum(x @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = (chances / chances.sum(axis=1, keepdims=True) - wanted) / len(x)
    back = error @ weights["w2"].T * (hidden > 0)
    return {"w1": x.T @ back, "b1": back.sum(axis=0), "w2": hidden.T @ error, "b2": error.sum(axis=0)}


def write_samples(images: Array, digits: Array, answers: Array) -> None:
    """Request bodies in three forms: `digit-7` is the first image of a 7 that is read right, `digits` are all ten."""
    chosen = [images[(digits == digit) & (answers == digit)][0] for digit in range(10)]
    _write("digits", np.stack(chosen))
    for digit, image in enumerate(chosen):
        _write(f"digit-{digit}", image[None])


def _write(name: str, rows: Array) -> None:
    folder = HERE / "samples"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"instances": rows.tolist()}) + "\n")
    (folder / f"{name}.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows.tolist()))
    np.save(folder / f"{name}.npy", rows.astype(np.float32))


if __name__ == "__main__":
    main()
