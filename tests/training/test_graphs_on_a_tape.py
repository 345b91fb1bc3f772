"""Replayed steps against eager ones, bitwise: on a GPU as CUDA graphs, on a CPU on a tape that keeps what they keep.

A CUDA graph keeps kernels, the addresses that they read and write, and the numbers that Python gave them. So does the
tape: it records the operations of a step, and a replay does them again on the same tensors with the same numbers. What
a step would have to take from Python anew each time is frozen on it as in a graph, and shows in the result.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from tape import Recorder, Tape
from torch import Tensor, nn

from sam_repro.augmentation import Augmentation, Crop, Flip
from sam_repro.config.lines import compose_line
from sam_repro.dataset import Data, Raw, Resident
from sam_repro.errors import UserError
from sam_repro.optimizer import SAM, SGD, LookSAM, Rule, SAMBall, SGDHess
from sam_repro.oracle import Objective
from sam_repro.rho_schedule import LikeLR
from sam_repro.run.dry_build import findings
from sam_repro.run.numerics import with_numerics
from sam_repro.schedule import Cosine
from sam_repro.training import evaluation, graphs
from sam_repro.training.diagnostics import Diagnostics
from sam_repro.training.plan import Plan
from sam_repro.training.trainer import Interrupted, Trainer

BATCH, EXAMPLES, EPOCHS = 8, 66, 3  # eight batches of an epoch, and one of two examples


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> type[Tape]:
    monkeypatch.setattr(graphs, "Graph", Tape)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(Tape, "made", 0)
    return Tape


class Net(nn.Module):
    """A convolution, batch norm, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.dropout, self.head = nn.Dropout(0.3), nn.Linear(48, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(self.conv(images)).relu().flatten(1)))


class Listener:
    """Keeps the rows; after the step at which to stop it sends the signal on which a run saves and ends."""

    def __init__(self, stop: int | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.stop = stop

    def step(self, done: int) -> None:
        if done == self.stop:
            signal.raise_signal(signal.SIGINT)

    def row(self, row: dict[str, Any]) -> None:
        self.rows.append({key: value for key, value in row.items() if key != "seconds"})

    def saving(self) -> None:
        pass


def split(count: int) -> Resident:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.randint(3, (count,), generator=generator)
    order, transforms = ["flip", "crop", "normalise"], {"flip": Flip(), "crop": Crop(1)}
    augmentation = Augmentation([0.5], [0.25], order=order, **transforms)
    return Resident(images=images, labels=labels, clean_labels=labels, num_classes=3, augmentation=augmentation)


def by_option(name: str, *words: str) -> Callable[[torch.optim.Optimizer], Rule]:
    """The rule of an option file."""
    node = compose_line([f"optimizer={name}", *words])["optimizer"]
    return lambda base: instantiate(node, _convert_="all")(base)


OPTIONS = sorted(file.stem for file in Path("configs/optimizer").glob("*.yaml"))
RULE, LOOKSAM = partial(SAM, rho=0.1), partial(LookSAM, rho=0.1, period=3)
SGD_WITH_MOMENTUM = partial(torch.optim.SGD, momentum=0.9)


def trainer(
    folder: Path,
    *,
    rule: Callable[[torch.optim.Optimizer], Rule] = RULE,
    device: str = "cpu",
    diagnostics: Diagnostics | None = None,
    fused: bool = True,
    base: Callable[..., torch.optim.Optimizer] = SGD_WITH_MOMENTUM,
    same_noise: bool = True,
    compile: bool = False,
    autocast: torch.dtype | None = None,
    rho_schedule: Any = None,
    **numbers: Any,
) -> Trainer:
    model = Net().to(device)
    plan = {"seed": 3, "epochs": EPOCHS, "batch_size": BATCH, "lr": 0.1, "checkpoint_every": 1e9} | numbers
    return Trainer(
        Objective(model, F.cross_entropy, same_noise=same_noise, compile=compile, autocast=autocast),
        rule(base(model.parameters(), lr=0.1, weight_decay=0.01, fused=fused)),
        Cosine(),
        Data(split(EXAMPLES), None, split(11)).to(device),
        Plan(**plan),
        diagnostics or Diagnostics(every=2),
        folder,
        rho_schedule=rho_schedule,
    )


def assert_replay_is_eager(
    folder: Path, device: str, resume_at: int | None = None, graphs: bool | None = True, **settings: Any
) -> None:
    """Weights, statistics and rows of a run with graphs, whole or taken up, are those of the eager run, bitwise."""
    eager, graph = Listener(), Listener(resume_at)
    expected = trainer(folder / "eager", device=device, graph=False, **settings)
    expected.run(eager)
    ours = trainer(folder, device=device, graph=graphs, **settings)
    if resume_at is not None:
        with pytest.raises(Interrupted):
            ours.run(graph)
        ours = trainer(folder, device=device, graph=graphs, **settings)
        assert ours.resume() == resume_at
        graph.stop = None
    ours.run(graph)
    for name, value in expected.model.state_dict().items():
        assert torch.equal(value, ours.model.state_dict()[name]), name
    assert eager.rows == graph.rows


SETTINGS: list[dict[str, Any]] = [
    {"rule": LOOKSAM},
    {"m": 4},
    {"m": 3, "rule": LOOKSAM},
    {"m": 4, "parts": "branches"},
    {"m": 3, "parts": "branches", "rule": LOOKSAM},
    {"rule": partial(SGDHess, rho=0.1, curvature="hessian")},
    {"rule": partial(SAMBall, rho=0.1, p=2, ascent_steps=3)},
    {"micro_batch": 3},
    {"base": partial(torch.optim.AdamW)},
    {"clip_norm": 0.1, "rho_schedule": LikeLR(1.0)},
    {"same_noise": False},
    {"diagnostics": Diagnostics("loss", every=2), "record_every": 1},
    {"drop_last": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_steps_on_tape_are_the_eager_steps(tmp_path: Path, tape: type[Tape], settings: dict[str, Any]) -> None:
    assert_replay_is_eager(tmp_path, "cpu", **settings)
    phases, looks = 1 + (settings.get("rule") is LOOKSAM), 2 - ("diagnostics" in settings)
    assert tape.made == phases * looks


@pytest.mark.parametrize("option", OPTIONS)
def test_steps_of_every_rule_on_tape_are_the_eager_steps(tmp_path: Path, tape: type[Tape], option: str) -> None:
    rule = by_option(option)
    if not rule(torch.optim.SGD(Net().parameters(), momentum=0.9)).capturable:
        pytest.skip("this rule says that no graph can hold its steps")
    assert_replay_is_eager(tmp_path, "cpu", rule=rule)
    assert tape.made >= 2


def test_small_batches_and_evaluations_are_replayed_too(tmp_path: Path, tape: type[Tape]) -> None:
    assert_replay_is_eager(tmp_path, "cpu", epochs=6, diagnostics=Diagnostics("loss"))
    assert tape.made == 3  # batches of eight, batches of two, evaluations


def test_evaluations_in_bfloat16_are_of_the_weights_of_now(
    tmp_path: Path, tape: type[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cast that autocast had kept from the batch before would be frozen in the captured forward."""
    monkeypatch.setattr(evaluation, "BATCH", 5)
    assert_replay_is_eager(tmp_path, "cpu", autocast=torch.bfloat16, epochs=4)


@pytest.mark.parametrize("rule", [RULE, LOOKSAM])
@pytest.mark.parametrize("record_every", [1, 5])
def test_a_run_on_tape_is_taken_up(tmp_path: Path, tape: type[Tape], rule: Any, record_every: int) -> None:
    assert_replay_is_eager(tmp_path, "cpu", resume_at=14, rule=rule, record_every=record_every)


def test_of_a_captured_step_the_host_does_nothing_but_write_its_numbers(tmp_path: Path, tape: type[Tape]) -> None:
    """Step, learning rate, radius, and which examples: gather, augmentation, passes and sums are in the graph."""
    ours = trainer(tmp_path, graph=True, diagnostics=Diagnostics("loss"))
    rows = torch.arange(BATCH)
    for step in range(graphs.WARM_UP + 1):
        ours._train_step(step, Raw(rows))
    (kind,) = ours._update._kinds.values()
    told = kind.graph.numbers
    kind.graph.replay = lambda seeds: told
    done: list[Callable[[], Any]] = []
    with Recorder(done):
        ours._train_step(4, Raw(rows))
    assert [entry.args[0].overloadpacket.__name__ for entry in done] == ["fill_", "fill_", "fill_", "copy_"]


def test_each_seeding_of_a_step_has_a_state_of_its_own(tmp_path: Path, tape: type[Tape]) -> None:
    for m, same_noise, seedings in ((None, True, 2), (4, True, 4), (None, False, 1)):
        ours = trainer(tmp_path, graph=True, diagnostics=Diagnostics("loss"), m=m, same_noise=same_noise)
        for step in range(graphs.WARM_UP + 1):
            ours._train_step(step, Raw(torch.arange(BATCH)))
        (kind,) = ours._update._kinds.values()
        assert kind.graph.seedings == len(kind.noises) == seedings


def test_a_step_that_waits_for_the_device_runs_eagerly_or_is_refused(
    tmp_path: Path, tape: type[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "waits", lambda device: nullcontext(["mine.py:7"]))
    with pytest.raises(UserError, match=r"graph = true: a step waits for the device at mine.py:7"):
        trainer(tmp_path, graph=True).run(Listener())
    in_branches = trainer(tmp_path, m=4, parts="branches")
    in_branches._replay_steps()  # as on a GPU
    with pytest.raises(UserError, match=r"parts = branches: a step waits .*; leave parts out"):
        in_branches.run(Listener())
    expected, ours = (trainer(tmp_path, graph=graph) for graph in (False, None))
    expected.run(Listener())
    ours._replay_steps()  # as on a GPU
    with pytest.warns(UserWarning, match=r"graph = auto: a step waits for the device at mine.py:7"):
        ours.run(Listener())
    assert tape.made == 0
    assert all(map(torch.equal, ours.model.state_dict().values(), expected.model.state_dict().values()))


@pytest.mark.gpu
def test_the_place_where_the_host_waits_is_named() -> None:
    x = torch.ones([], device="cuda")
    with graphs.waits(x.device) as places:
        float(x)
    assert places
    assert places[0].startswith("test_graphs_on_a_tape.py:")
    with graphs.waits(x.device) as places:
        x.add_(1)
    assert places == []


def test_the_tape_shows_what_a_step_takes_from_python(tmp_path: Path, tape: type[Tape]) -> None:
    """The tests above rest on this: a number that Python gives anew in each step is seen."""

    class Frozen(SGD):
        def combine(self, g: Any) -> Any:
            return [x * (1 + 0.1 * self.steps) for x in g]

    with pytest.raises(AssertionError):
        assert_replay_is_eager(tmp_path, "cpu", rule=Frozen)


def test_a_read_by_the_host_cannot_be_recorded() -> None:
    for read in (lambda x: float(x), lambda x: x + torch.tensor(1.0), lambda x: x[x > 0]):
        with pytest.raises(AssertionError, match="not for a graph"), Recorder([]):
            read(torch.ones([]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rule": partial(SGDHess, rho=0.1)}, "cannot be captured"),
        ({"rule": partial(SGDHess, rho=0.1, curvature="hutchinson_abs", period=4)}, "cannot be captured"),
        ({"fused": False}, "fused"),
        ({"diagnostics": Diagnostics("drift")}, "drift"),
    ],
)
def test_what_cannot_be_captured_is_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"graph = true: .*{said}"):
        trainer(tmp_path, graph=True, **settings)
    with pytest.raises(ValueError, match=f"parts = branches: .*{said}.*; or leave parts out"):
        trainer(tmp_path, m=4, parts="branches", **settings)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["diagnostics=drift"], "choose standard or loss"),
        (["base_optimizer.fused=false"], "as fused SGD"),
        (["base_optimizer=lamb"], "as fused SGD"),
        (["optimizer=sgdhess"], "the steps of SGDHess cannot be captured"),
    ],
)
def test_the_command_line_says_what_a_graph_needs(overrides: list[str], said: str) -> None:
    for asked, words in (("graph = true", ["graph=true"]), ("parts = branches", ["m=32", "parts=branches"])):
        (line,) = findings([compose_line([*words, *overrides])])
        assert line.startswith(f"{asked}: ")
        assert said in line


def test_graphs_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for asked, words in (("graph = true", ["graph=true"]), ("parts = branches", ["m=32", "parts=branches"])):
        with pytest.raises(UserError, match=f"{asked}: needs a GPU"):
            with_numerics(compose_line(words))


@pytest.mark.gpu
@pytest.mark.parametrize("resume_at", [None, 14])
@pytest.mark.parametrize(
    "settings",
    [
        *SETTINGS,
        {"epochs": 6, "diagnostics": Diagnostics("loss")},
        {"compile": True},
        {"compile": True, "m": 4, "parts": "branches"},
    ],
)
def test_cuda_graphs_are_the_eager_steps(
    tmp_path: Path, settings: dict[str, Any], resume_at: int | None, deterministic: None
) -> None:
    assert_replay_is_eager(tmp_path, "cuda", resume_at, **settings)


@pytest.mark.gpu
@pytest.mark.parametrize("option", OPTIONS)
def test_cuda_graphs_of_every_rule_are_the_eager_steps(tmp_path: Path, option: str, deterministic: None) -> None:
    rule = by_option(option)
    captured = rule(torch.optim.SGD(Net().parameters(), momentum=0.9)).capturable
    assert_replay_is_eager(tmp_path, "cuda", graphs=True if captured else None, rule=rule)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("option", ["sam", "looksam", "sgdhess"])
def test_branches_of_a_graph_are_the_parts_in_sequence(
    tmp_path: Path, request: pytest.FixtureRequest, option: str, device: str, deterministic: None
) -> None:
    """Bitwise on a CPU; on a GPU to 1e-5, and one replayed run is bitwise the other."""
    if device == "cpu":
        request.getfixturevalue("tape")
    words = ["optimizer.curvature=hessian"] if option == "sgdhess" else []
    settings = {"rule": by_option(option, *words), "device": device, "m": 3, "max_steps": 8, "graph": True}
    runs = [
        trainer(tmp_path / name, parts=parts, **settings)
        for name, parts in (("a", "sequence"), ("b", "branches"), ("c", "branches"))
    ]
    for run in runs:
        run.run(Listener())
    expected, ours, again = (list(run.model.state_dict().values()) for run in runs)
    assert all(map(torch.equal, ours, again))
    rtol, atol = (0, 0) if device == "cpu" else (1e-5, 1e-6)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_an_eager_run_is_taken_up(tmp_path: Path, device: str, deterministic: None) -> None:
    """What the tests above compare with."""
    assert_replay_is_eager(tmp_path, device, resume_at=14, graphs=False)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
