"""One thread everywhere, so that sums have one order; float64 where a test asks for it."""

import functools
import signal
from collections.abc import Iterator

import pytest
import torch
from door import Server


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard() -> None:
    """Here and in what is started here: nohup has SIGHUP ignored, and a script's `&` SIGINT."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def compiled_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `torch.compile` keeps is of this session: it does not ask whether kept code was made for this CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(scope="session")
def door() -> Iterator[Server]:
    """Doors that have imported all that a run on a CPU needs."""
    libraries = ["sklearn.datasets", "torchvision.datasets", "timm", "matplotlib.pyplot", "torch._dynamo"]
    ours = ["train", "measure", "table.__main__", "table.sweep", "run.dry_build", "run.run"]
    server = Server("safetensors.torch", *libraries, *(f"sam_repro.{name}" for name in ours))
    yield server
    server.close()


@pytest.fixture(scope="session")
def light() -> Iterator[Server]:
    """Doors that have not imported torch."""
    server = Server("sam_repro.train", "sam_repro.measure")
    yield server
    server.close()


@pytest.fixture
def float64() -> Iterator[None]:
    """New tensors and modules are float64 in the test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are captured and differentiated as always, and run operation by operation: no kernels are built."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    torch._dynamo.reset()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write the texts in tests/data/golden anew")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without a GPU what asks for one is skipped, also where it was chosen."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
