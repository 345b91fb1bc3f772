"""Steps: SAM against SGD, against the naive SAM and against pytorch-optimizer's, in the same and in faster settings.

    python scripts/bench_step.py [--quick] [--gpu] [--compile] [--only CASE ...]

Before the clock starts, two steps of every variant are compared with the naive SAM's in float32: the new weights, and
with rho = 0 those of SGD.
"""

import copy
import itertools
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from bench import Bench, Variant, agree, ratio
from pytorch_optimizer import SAM as PeerSAM
from torch import Tensor, nn

from sam_repro.architecture import resnet8, resnet18, resnet20, wrn28_10
from sam_repro.config.lines import compose_line
from sam_repro.dataset import Batch
from sam_repro.optimizer import SAM, LookSAM, Rule
from sam_repro.optimizer import SGD as OurSGD
from sam_repro.oracle import Branches, Objective
from sam_repro.run.numerics import with_numerics
from sam_repro.training import graphs

LR, MOMENTUM, DECAY, RHO = 0.01, 0.9, 5e-4, 0.05
SGD = partial(torch.optim.SGD, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
OUR_SAM, LOOKSAM = partial(SAM, rho=RHO), partial(LookSAM, rho=RHO)
Step = Callable[[], Tensor]
Network = Callable[..., nn.Module]


class Preset(NamedTuple):
    """Precision and layout."""

    bf16: bool = False
    channels_last: bool = False

    @property
    def name(self) -> str:
        """As the tables have it."""
        return f"{'bf16' if self.bf16 else 'fp32'} {'channels_last' if self.channels_last else 'contiguous'}"


PLAIN, FULL, FAST = Preset(), Preset(channels_last=True), Preset(bf16=True, channels_last=True)


def default(device: torch.device) -> Preset:
    """What a run gets on this machine that asks for nothing."""
    config = with_numerics(compose_line([f"device={device.type}"]))
    return Preset(config["precision"] == "bf16", config["channels_last"])


class NaiveSAM:
    """SAM as it is usually written: a norm, a clone, a product and a sum for each parameter, one after the other."""

    def __init__(self, model: nn.Module, rho: float = RHO) -> None:
        self.params, self.rho = list(model.parameters()), rho
        self.base = SGD(self.params, foreach=False)
        self.saved: list[Tensor] = []

    @torch.no_grad()
    def first_step(self) -> None:
        """Climb."""
        length = torch.stack([p.grad.norm(p=2) for p in self.params]).norm(p=2)
        scale = self.rho / (length + 1e-12)
        self.saved = [p.data.clone() for p in self.params]
        for p in self.params:
            p.add_(p.grad * scale)
        self.base.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        """Come back, and let the base step."""
        for p, before in zip(self.params, self.saved, strict=True):
            p.data.copy_(before)
        self.base.step()
        self.base.zero_grad()


class Task(NamedTuple):
    """A network with its weights, and batches that are taken in turn."""

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    def turns(self, preset: Preset) -> tuple[nn.Module, Iterator[tuple[Tensor, Tensor]]]:
        """A copy of the network in the preset's layout, and the batches without end."""
        layout = torch.channels_last if preset.channels_last else torch.contiguous_format
        batches = [(x.contiguous(memory_format=layout), y) for x, y in self.batches]
        return copy.deepcopy(self.model).to(memory_format=layout), itertools.cycle(batches)


def task(network: Network, batch: int, device: torch.device, pixels: int = 32) -> Task:
    """A network for 100 classes and eight random batches."""
    torch.manual_seed(0)
    model = network(num_classes=100, in_channels=3, image_size=pixels).to(device)
    images = torch.randn(8, batch, 3, pixels, pixels).to(device)
    return Task(model, list(zip(images, torch.randint(100, (8, batch)).to(device), strict=True)))


def passed(model: nn.Module, images: Tensor, labels: Tensor, preset: Preset) -> Tensor:
    """Forward and backward as a plain loop has them."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=preset.bf16):
        outputs = model(images)
    loss = F.cross_entropy(outputs.float() if preset.bf16 else outputs, labels)
    loss.backward()
    return loss.detach()


def sgd(job: Task, preset: Preset, times: int = 1) -> tuple[nn.Module, Step]:
    """The plain SGD step, with the fused kernel."""
    (model, batches), steps = job.turns(preset), range(times)
    base = SGD(model.parameters(), fused=True)

    def step() -> Tensor:
        for _ in steps:
            base.zero_grad()
            loss = passed(model, *next(batches), preset)
            base.step()
        return loss

    return model, step


def naive(job: Task, preset: Preset, compile: bool = False) -> tuple[nn.Module, Step]:
    """The naive SAM step."""
    model, batches = job.turns(preset)
    optimizer, forward = NaiveSAM(model), torch.compile(model, dynamic=False) if compile else model

    def step() -> Tensor:
        batch = next(batches)
        loss = passed(forward, *batch, preset)
        optimizer.first_step()
        passed(forward, *batch, preset)
        optimizer.second_step()
        return loss

    return model, step


def peer(job: Task, preset: Preset, mode: str | None = None) -> tuple[nn.Module, Step]:
    """pytorch-optimizer's SAM step with its defaults, on the fused base; `mode` is torch.compile's, None for eager."""
    model, batches = job.turns(preset)
    forward = model if mode is None else torch.compile(model, dynamic=False, mode=mode)
    optimizer = PeerSAM(
        model.parameters(), torch.optim.SGD, rho=RHO, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True
    )

    def step() -> Tensor:
        batch = next(batches)
        optimizer.zero_grad()
        loss = passed(forward, *batch, preset).clone()  # the second pass writes over it where graphs share their memory
        optimizer.first_step(zero_grad=True)
        passed(forward, *batch, preset)
        optimizer.second_step(zero_grad=True)
        return loss

    return model, step


def ours(
    job: Task,
    preset: Preset,
    rule: Callable[..., Rule] = OUR_SAM,
    m: int | None = None,
    compile: bool = False,
    graph: bool = False,
    parts: str = "sequence",
) -> tuple[nn.Module, Step]:
    """Our step."""
    model, batches = job.turns(preset)
    objective = Objective(model, F.cross_entropy, autocast=torch.bfloat16 if preset.bf16 else None, compile=compile)
    made, branches = rule(SGD(model.parameters(), fused=True)), Branches() if parts == "branches" else None

    def update(_: int, batch: Batch) -> graphs.Numbers:
        loss = made.backward(objective(batch.inputs, batch.targets, noise=0), m=m, branches=branches)
        made.update()
        return {"loss": loss}

    replayed = partial(graphs.Replayed, update, made.phase, lambda _: 0, objective, job.batches[0][1].device)
    act: graphs.Update = replayed() if graph else update

    def step() -> Tensor:
        images, labels = next(batches)
        numbers = act(number := made.steps, Batch(images, labels, rows=labels))
        made.steps = number + 1  # a replay counts nothing
        return numbers["loss"]

    return model, step


def check(job: Task) -> None:
    """Two steps of each against the naive SAM: in float64, where rounding cannot hide anything, and in bfloat16."""
    double = Task(copy.deepcopy(job.model).double(), [(x.double(), y) for x, y in job.batches])

    def moved(made: tuple[nn.Module, Step]) -> list[Tensor]:
        model, step = made
        step()
        step()
        return [p.detach() - start for p, start in zip(model.parameters(), job.model.parameters(), strict=True)]

    reference = moved(naive(double, PLAIN))
    agree("pytorch-optimizer's SAM", moved(peer(double, PLAIN)), reference, 1e-6)
    agree("our SAM", moved(ours(double, PLAIN)), reference, 1e-6)
    agree("our SAM, channels_last", moved(ours(double, FULL)), reference, 1e-6)
    agree("branches", moved(ours(double, PLAIN, m=8, parts="branches")), moved(ours(double, PLAIN, m=8)), 1e-6)
    agree("our SAM, rho = 0", moved(ours(double, PLAIN, partial(SAM, rho=0.0))), moved(sgd(double, PLAIN)), 1e-12)
    agree("our SAM, bf16, channels_last", moved(ours(job, FAST)), reference, 0.3)


class Rows:
    """The table of a network, to which the ratios are SGD's of the first row."""

    def __init__(self, job: Task, network: str) -> None:
        self.job, self.network = job, network
        self.made: list[Variant] = []
        self.add("SGD", FAST if job.batches[0][0].is_cuda else PLAIN, sgd)

    def add(
        self,
        name: str,
        preset: Preset,
        make: Callable[..., tuple[nn.Module, Step]],
        *given: Any,
        units: int = 1,
        **options: Any,
    ) -> None:
        """Add what `make` makes of the task, with options, which the name tells."""
        step = make(self.job, preset, *given, **options)[1]
        words = "".join(f" {key}={value}" for key, value in options.items())
        about = {"model": self.network, "batch": len(self.job.batches[0][1]), "preset": preset.name}
        run = step if units == 1 else lambda: [step() for _ in range(units)]
        warm_up = (graphs.WARM_UP + 1) if options else 1
        self.made.append(Variant(f"{name}{words}, {preset.name}", run, units, warm_up, facts=about | options))


def on_a_cpu(job: Task, network: str, compile: bool) -> list[Variant]:
    """Ours beside others' in three presets, and LookSAM."""
    rows = Rows(job, network)
    rows.add("SGD", FAST, sgd)
    for preset in (PLAIN, FAST):
        rows.add("2 x SGD", preset, partial(sgd, times=2))
        rows.add("naive SAM", preset, naive)
        rows.add("pytorch-optimizer SAM", preset, peer)
    for preset in (PLAIN, FULL, FAST):
        rows.add("our SAM", preset, ours)
    rows.add("our LookSAM-5", FAST, ours, LOOKSAM, units=5)
    if compile:
        rows.add("our SAM", FAST, ours, compile=True)
        rows.add("our SGD", FAST, ours, OurSGD, compile=True)
    return rows.made


def on_a_gpu(job: Task, network: str, settings: list[dict[str, Any]], peers: bool) -> list[Variant]:
    """Ours in some settings; with the peers also eager, and the peers' in theirs."""
    rows = Rows(job, network)
    if peers:
        rows.add("naive SAM", FAST, naive)
        rows.add("naive SAM", FAST, naive, compile=True)
        rows.add("pytorch-optimizer SAM", FAST, peer)
        rows.add("pytorch-optimizer SAM", FAST, peer, mode="default")
        rows.add("pytorch-optimizer SAM", FAST, peer, mode="reduce-overhead")
        rows.add("our SAM", FAST, ours)
    for options in settings:
        rows.add("our SAM", FAST, ours, **options)
    if peers:
        rows.add("our SGD", FAST, ours, OurSGD, **settings[-1])
        rows.add("our LookSAM-5", FAST, ours, LOOKSAM, units=5, **settings[-1])
    return rows.made


def targets(bench: Bench, seconds: dict[str, list[float]], network: str) -> None:
    """S1 to S3 and S9 of a table."""

    def named(step: str, preset: Preset) -> str:
        return f"{step}, {preset.name}"

    def target(name: str, one: str, other: str, limit: float, stretch: float) -> None:
        bench.target(name, f"{network}: {one} / {other}", ratio(seconds, one, other), limit, stretch)

    for preset in (PLAIN, FAST):
        target("S3", named("our SAM", preset), named("2 x SGD", preset), 1.08, 1.02)
    usual = named("our SAM", default(bench.device))
    target("S1", usual, named("naive SAM", PLAIN), 0.55, 0.45)
    target("S2", usual, named("SGD", PLAIN), 1.1, 0.95)
    target("S9", named("our LookSAM-5", FAST), named("our SAM", FAST), 0.65, 0.62)
    for preset in (PLAIN, FULL, FAST):
        for other in ("naive SAM", "SGD"):
            value = ratio(seconds, named("our SAM", preset), named(other, PLAIN))
            bench.note(f"      {network}: {named('our SAM', preset)} / {named(other, PLAIN)}: {value:.3f}")


def gpu_targets(bench: Bench, seconds: dict[str, list[float]], network: str, batch: int) -> None:
    """G1 to G5 of a table, as time over time: the best of ours over the roofline and over the best of the peers."""
    best = _fastest(seconds, "our SAM")
    bench.note(f"      {network}, batch {batch}: best of ours is {best}")
    bound = roofline(bench, network, batch)
    if bound is not None and "m=" not in best:
        taken = statistics.median(seconds[best])
        bench.target("G1-4", f"{network}, batch {batch}: step / roofline", taken / bound, 1 / 0.65)
    public = [name for name in seconds if name.startswith(("naive", "pytorch-optimizer"))]
    if public:
        other = _fastest(seconds, "naive", "pytorch-optimizer")
        bench.target("G5", f"{network}, batch {batch}: {best} / {other}", ratio(seconds, best, other), 1 / 1.3)


def _fastest(seconds: dict[str, list[float]], *starts: str) -> str:
    return min((name for name in seconds if name.startswith(starts)), key=lambda name: statistics.median(seconds[name]))


def roofline(bench: Bench, model: str, batch: int) -> float | None:
    """Seconds of a SAM step by `bench_roofline`; None if it was not run for this network."""
    path = bench.arguments.out / "bench_roofline.jsonl"
    for line in map(json.loads, path.read_text().splitlines() if path.exists() else []):
        if (line.get("model"), line.get("batch")) == (model, batch):
            return float(line["sam_step_seconds"])
    return None


def on_the_host(bench: Bench, variants: list[Variant]) -> None:
    """Of our steps on a GPU: kernels, the time that the host takes to ask for them, and whether it waits for one."""
    for variant in variants:
        if not variant.name.startswith("our SAM") or variant.units > 1:
            continue
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            variant.run()
            torch.cuda.synchronize()
        kernels = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
        torch.cuda.set_sync_debug_mode("error")
        began = time.perf_counter()
        for _ in range(20):
            variant.run()
        asked = time.perf_counter() - began
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        whole = time.perf_counter() - began
        figures = f"{kernels} kernels, {asked / 20 * 1e3:.3g} ms of the host in {whole / 20 * 1e3:.3g} ms, no waiting"
        bench.note(f"      {variant.facts['model']}, {variant.name}: {figures}")
        bench.say(variant=variant.name, kernels=kernels, host_seconds=asked / 20, seconds=whole / 20, **variant.facts)


def vit_small(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """ViT-S/16, as timm has it."""
    import timm

    return timm.create_model("vit_small_patch16_224", num_classes=num_classes, img_size=image_size)


GRAPH, BOTH, BRANCHES = {"graph": True}, {"compile": True, "graph": True}, {"parts": "branches"}
PARTS = [{"m": 32}, *({"m": 32, **more} for more in (GRAPH, BOTH, GRAPH | BRANCHES, BOTH | BRANCHES))]
CASES: dict[str, tuple[Network, int, int, list[dict[str, Any]]]] = {
    "ResNet-18 256": (resnet18, 256, 32, [GRAPH, BOTH]),
    "ResNet-20 128": (resnet20, 128, 32, [GRAPH, BOTH]),
    "ResNet-18 128": (resnet18, 128, 32, [GRAPH, BOTH]),
    "WRN-28-10 128": (wrn28_10, 128, 32, [GRAPH, BOTH]),
    "ViT-S/16 128": (vit_small, 128, 224, [GRAPH, BOTH]),
    "ResNet-18 128 in parts": (resnet18, 128, 32, PARTS),
}
"""On a GPU: name of a case → network, batch, pixels, settings of ours; the first also with the peers."""


def on_the_gpu(bench: Bench, name: str) -> None:
    """The table of a case on a GPU."""
    make, batch, pixels, settings = CASES[name]
    network = name.partition(" ")[0]
    variants = on_a_gpu(task(make, batch, bench.device, pixels), network, settings, peers=name == next(iter(CASES)))
    seconds = bench.measure(f"steps, {name}", variants, "step")
    gpu_targets(bench, seconds, network, batch)
    on_the_host(bench, variants)


def main() -> None:
    bench = Bench("bench_step", __doc__, only=list(CASES))
    check(task(resnet8, 32, bench.device))
    if bench.device.type == "cpu":
        batch = 16 if bench.quick else 128
        variants = on_a_cpu(task(resnet20, batch, bench.device), "ResNet-20", bench.compile)
        targets(bench, bench.measure(f"steps, ResNet-20, batch {batch}", variants, "step"), "ResNet-20")
        return bench.close()
    torch.backends.cudnn.benchmark = True
    for name in bench.arguments.only or CASES:
        try:
            on_the_gpu(bench, name)
        except Exception:  # on a GPU that is lent for minutes the other cases still count
            bench.note(f"{name}: failed\n{traceback.format_exc()}")
        torch.cuda.empty_cache()
    return bench.close()


if __name__ == "__main__":
    main()
