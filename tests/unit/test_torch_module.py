"""weights.torch_module(): a module on mapped memory, with equal results. Skipped where torch is not installed."""

import json
import pickle
import struct

import pytest

from headrace import weights
from headrace.errors import ModelError
from headrace.weight_store import Store, create

torch = pytest.importorskip("torch")
nn = torch.nn
ROWS, COLUMNS = 512, 1024  # 2 MiB of weights, above what is shared at least


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(COLUMNS, ROWS)
        self.norm = nn.BatchNorm1d(ROWS)

    def forward(self, x):
        return self.norm(self.linear(x))


def write_safetensors(path, state):
    """By hand, from the format's description: the length of a JSON head, the head, the bytes of all tensors."""
    words = {torch.float32: "F32", torch.int64: "I64"}
    head, data = {}, b""
    for name, it in state.items():
        content = it.numpy().tobytes()
        offsets = [len(data), len(data) + len(content)]
        head[name] = {"dtype": words[it.dtype], "shape": list(it.shape), "data_offsets": offsets}
        data += content
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def net():
    torch.manual_seed(3)
    return Net().eval()


@pytest.fixture
def save(tmp_path):
    def save(kind, state):
        path = tmp_path / f"net.{kind}"
        torch.save(state, path) if kind == "pt" else write_safetensors(path, state)
        return path

    return save


def mapping_of(address):
    """The file that is mapped at that address, "" when it is anonymous memory."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(word, 16) for word in line.split()[0].split("-"))
            if begin <= address < end:
                return " ".join(line.split()[5:])
    raise AssertionError(f"nothing is mapped at {address:#x}")


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_the_module_predicts_as_the_saved_one_from_the_file_s_own_pages(net, save, kind):
    path, x = save(kind, net.state_dict()), torch.randn(4, COLUMNS)
    size = path.stat().st_size
    with open(create(), "rb") as memfd:
        store = Store(memfd.fileno())
        try:
            with weights.loading(store):
                found = weights.torch_module(Net, path).eval()
            assert store.mapped_bytes == size
        finally:
            store.close()
    torch.testing.assert_close(found(x), net(x), rtol=0, atol=0)
    assert {name: it.dtype for name, it in found.state_dict().items()} == {
        name: it.dtype for name, it in net.state_dict().items()
    }
    assert mapping_of(found.linear.weight.data_ptr()) == str(path)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_replica_that_trains_on_changes_neither_the_file_nor_the_others(net, save, kind):
    path = save(kind, net.state_dict())
    before = path.read_bytes()
    first, second = weights.torch_module(Net, path), weights.torch_module(Net, path)
    with torch.no_grad():
        first.linear.weight.fill_(7)
    torch.testing.assert_close(second.linear.weight, net.linear.weight, rtol=0, atol=0)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_what_the_file_leaves_without_content_is_named(net, save, kind):
    state = net.state_dict()
    del state["norm.running_mean"]
    path = save(kind, state)
    with pytest.raises(RuntimeError, match=r"Missing key.*norm\.running_mean"):
        weights.torch_module(Net, path)
    with pytest.raises(ModelError, match=r"has nothing for norm\.running_mean: set it in build\(\)"):
        weights.torch_module(Net, path, strict=False)


def test_a_shape_that_does_not_fit_is_refused(net, save):
    with pytest.raises(RuntimeError, match=r"size mismatch for weight"):
        weights.torch_module(lambda: nn.Linear(2, ROWS), save("pt", net.linear.state_dict()))


def test_a_pickle_of_code_is_not_run(save, tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("run").touch, ())

    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        weights.torch_module(Net, save("pt", {"linear.weight": Evil()}))
    assert not (tmp_path / "run").exists()
