"""What replicas have in common: pages, not only values; and that models see what numpy alone would have given them."""

import os
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from headrace import weights
from headrace.errors import ModelError
from headrace.loaders import Options
from headrace.loaders import load as load_model
from headrace.weight_store import SHARED_LEAST_BYTES, Store, create

ROWS = SHARED_LEAST_BYTES // 4 // 256 + 1
BIG = np.arange(ROWS * 256, dtype=np.float32).reshape(ROWS, 256)


@pytest.fixture
def replica(tmp_path):
    """A function that gives scopes, in which a replica of one model in tmp_path loads."""
    fd = create()
    stores = []

    def replica(directory=tmp_path):
        stores.append(Store(fd))
        return weights.loading(stores[-1], directory)

    replica.fd, replica.stores = fd, stores
    yield replica
    for store in stores:
        store.close()
    os.close(fd)


def private_bytes(array: np.ndarray) -> int:
    """Bytes of the mappings over which the array extends that are this process's own."""
    found = 0
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        begin, end = (int(word, 16) for word in block.split()[0].split("-"))
        if begin < array.ctypes.data + array.nbytes and array.ctypes.data < end:
            found += int(re.search(r"Anonymous: +(\d+) kB", block)[1]) << 10
    return found


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_what_numpy_load_reads_during_a_load_is_shared_and_writable(tmp_path, replica, kind):
    path = tmp_path / ("w.npy" if kind == "npy" else "w.npz")
    {"npy": np.save, "npz": lambda p, a: np.savez(p, w=a), "compressed": lambda p, a: np.savez_compressed(p, w=a)}[
        kind
    ](path, BIG)
    found = []
    for _ in range(2):
        with replica():
            loaded = np.load(path)
            found.append(loaded if kind == "npy" else loaded["w"])
    for array in found:
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, BIG, strict=True)
        assert private_bytes(array) == 0
    found[0][0, 0] = -1
    assert 0 < private_bytes(found[0]) < BIG.nbytes // 4
    assert found[1][0, 0] == 0
    with replica():
        again = np.load(path)
        assert (again if kind == "npy" else again["w"])[0, 0] == 0


def test_a_file_that_was_replaced_is_read_anew(tmp_path, replica):
    path = tmp_path / "w.npz"
    for value in (1, 2):
        np.savez(tmp_path / "new.npz", w=np.full_like(BIG, value))
        os.replace(tmp_path / "new.npz", path)
        with replica():
            assert np.load(path)["w"][5, 5] == value


def test_numpy_load_is_numpys_own_elsewhere(tmp_path, replica):
    np.savez(tmp_path / "w.npz", w=BIG)
    (tmp_path / "model").mkdir()
    np.save(tmp_path / "model" / "small.npy", BIG[:2])
    np.save(tmp_path / "model" / "objects.npy", np.array([{}] * 300_000, object), allow_pickle=True)
    np.savez(tmp_path / "model" / "objects.npz", o=np.array([{}] * 300_000, object))
    np.savez(tmp_path / "model" / "small.npz", w=BIG[:2])
    size = os.fstat(replica.fd).st_size
    with replica(tmp_path / "model"):
        assert private_bytes(np.load(tmp_path / "w.npz")["w"]) >= BIG.nbytes // 2  # not the model's
        np.testing.assert_array_equal(np.load(str(tmp_path / "model" / "small.npy")), BIG[:2])
        np.testing.assert_array_equal(np.load(tmp_path / "model" / "small.npz")["w"], BIG[:2])
        assert isinstance(np.load(tmp_path / "model" / "small.npy", mmap_mode="r"), np.memmap)
        with open(tmp_path / "model" / "small.npy", "rb") as file:
            np.testing.assert_array_equal(np.load(file), BIG[:2])
        with pytest.raises(ValueError, match="allow_pickle"):
            np.load(tmp_path / "model" / "objects.npy")
        with np.load(tmp_path / "model" / "objects.npz") as objects, pytest.raises(ValueError, match="allow_pickle"):
            objects["o"]
        assert np.load(tmp_path / "model" / "objects.npy", allow_pickle=True)[0] == {}
        with pytest.raises(FileNotFoundError):
            np.load(tmp_path / "model" / "missing.npz")
    assert os.fstat(replica.fd).st_size == size
    assert private_bytes(np.load(tmp_path / "w.npz")["w"]) >= BIG.nbytes // 2  # after the load


def test_share_builds_once_and_shares_the_memory_of_arrays(replica):
    built = []

    def build():
        built.append(1)
        return {"w": BIG.copy(), "name": "x", "small": np.arange(3)}

    first, second = [], []
    for found in (first, second):
        with replica():
            found.append(weights.share("model", build))
    assert built == [1]
    for (value,) in (first, second):
        np.testing.assert_array_equal(value["w"], BIG)
        assert (value["name"], value["small"].tolist()) == ("x", [0, 1, 2])
        assert private_bytes(value["w"]) == 0
    assert first[0]["w"].ctypes.data != second[0]["w"].ctypes.data


@pytest.mark.parametrize(
    "value",
    [lambda: lambda: 1, lambda: threading.Lock(), lambda: list(range(300_000)), lambda: np.zeros(10)],
    ids=["local", "lock", "no arrays", "small"],
)
def test_share_leaves_alone_what_cannot_be_shared_or_is_not_worth_it(replica, value):
    built = []
    for _ in range(2):
        with replica():
            weights.share("it", lambda: built.append(1) or value())
    assert built == [1, 1]
    assert os.fstat(replica.fd).st_blocks == 0


def test_an_error_of_build_is_the_callers_and_the_next_replica_tries_again(replica):
    def fail():
        raise KeyError("weights")

    with replica(), pytest.raises(KeyError):
        weights.share("it", fail)
    with replica():
        np.testing.assert_array_equal(weights.share("it", BIG.copy), BIG)


def test_without_a_server_everything_is_loaded_all_the_same(tmp_path):
    np.save(tmp_path / "w.npy", BIG)
    np.savez(tmp_path / "w.npz", w=BIG)
    np.testing.assert_array_equal(weights.load(tmp_path / "w.npy"), BIG)
    np.testing.assert_array_equal(weights.load(tmp_path / "w.npz")["w"], BIG)
    assert weights.share("it", lambda: 5) == 5


def test_other_files_are_refused_with_what_to_use(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(
        ModelError, match=r"neither \.npy, \.npz nor \.safetensors; for other objects use weights\.share"
    ):
        weights.load(tmp_path / "model.pkl")
    np.savez(tmp_path / "objects.npz", o=np.array([{}], object))
    with pytest.raises(ModelError, match="holds no plain arrays"):
        weights.load(tmp_path / "objects.npz")
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    with pytest.raises(ModelError, match="holds no plain arrays"):
        weights.load(tmp_path / "objects.npy")
    with pytest.raises(FileNotFoundError):
        weights.load(tmp_path / "missing.npy")


def test_a_thread_that_outlives_the_load_reads_for_itself(tmp_path, replica):
    np.savez(tmp_path / "w.npz", w=BIG)
    (tmp_path / "model.py").write_text(
        "import threading\nimport numpy as np\nfrom headrace import Model, weights\n"
        "class M(Model):\n"
        "    def load(self, directory):\n"
        "        self.path, self.go, self.found = directory / 'w.npz', threading.Event(), []\n"
        "        self.thread = threading.Thread(target=self.work)\n"
        "        self.thread.start()\n"
        "    def work(self):\n"
        "        self.go.wait(30)\n"
        "        self.found += [np.load(self.path)['w'], weights.load(self.path)['w'], weights.share('x', lambda: 7)]\n"
        "    def predict(self, x): return x\n"
    )
    store = Store(replica.fd)
    servable = load_model(tmp_path, None, Options("m"), 900_001, store)
    store.close()
    model = servable._model
    model.go.set()
    model.thread.join(30)
    np.testing.assert_array_equal(model.found[0], BIG)
    np.testing.assert_array_equal(model.found[1], BIG)
    assert model.found[2] == 7
    servable.unload()
