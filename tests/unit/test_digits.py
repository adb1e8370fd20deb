"""The bundled model reads its samples, and what metrics.json claims of it is so."""

import json
from pathlib import Path

import numpy as np
import pytest

from headrace import InferenceError
from headrace.digits.model import Digits
from headrace.startup_models import BUNDLED

FOLDER = Path(BUNDLED)
SAMPLES = {"digits": list(range(10)), **{f"digit-{digit}": [digit] for digit in range(10)}}


@pytest.fixture(scope="module")
def model():
    digits = Digits()
    digits.load(FOLDER)
    return digits


@pytest.fixture(scope="module")
def metrics():
    return json.loads((FOLDER / "metrics.json").read_text())


def rows_of(name):
    """A sample's rows, from each of its three forms."""
    path = FOLDER / "samples" / name
    yield np.array(json.loads(path.with_suffix(".json").read_text())["instances"], np.float32)
    yield np.load(path.with_suffix(".npy"))
    yield np.loadtxt(path.with_suffix(".csv"), np.float32, delimiter=",", ndmin=2)


def test_every_sample_is_known_to_these_tests():
    assert {path.stem for path in (FOLDER / "samples").iterdir()} == SAMPLES.keys()


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_is_the_same_in_every_form_and_is_read_right(model, name):
    for rows in rows_of(name):
        assert rows.shape == (len(SAMPLES[name]), 64)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, next(rows_of(name)))
        assert model.predict(rows).tolist() == SAMPLES[name]


def test_samples_are_held_out_images():
    with np.load(FOLDER / "held_out.npz") as held_out:
        known = {
            image.tobytes(): int(digit) for image, digit in zip(held_out["images"], held_out["digits"], strict=True)
        }
    for digit, row in enumerate(next(rows_of("digits"))):
        assert known[row.astype(np.uint8).tobytes()] == digit


def test_claimed_accuracy_is_what_the_held_out_images_give(model, metrics):
    with np.load(FOLDER / "held_out.npz") as held_out:
        images, digits = held_out["images"], held_out["digits"]
    right = model.predict(images.astype(np.float32)) == digits
    assert len(images) == metrics["held_out_images"]
    assert right.mean() == pytest.approx(metrics["accuracy"], abs=1e-4)
    assert metrics["accuracy"] > 0.97


def test_claimed_sizes_are_those_of_the_weights(metrics):
    assert (FOLDER / "weights.npz").stat().st_size == metrics["weights_bytes"] < 200 << 10
    with np.load(FOLDER / "weights.npz") as weights:
        assert sum(array.size for array in weights.values()) == metrics["parameters"]
        assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("pixel", [-1, 16.5, 255, np.nan, np.inf])
def test_pixels_out_of_range_are_the_clients_fault(model, pixel):
    rows = np.zeros((2, 64), np.float32)
    rows[1, 5] = pixel
    with pytest.raises(InferenceError, match="0 \\(paper\\) to 16 \\(ink\\)") as caught:
        model.predict(rows)
    assert caught.value.status == 400
