"""Steps: SAM against SGD, against the naive SAM and against pytorch-optimizer's, in the same and in faster settings.

    python scripts/bench_step.py [--quick] [--gpu] [--compile]

Before the clock starts, two steps of every variant are compared with the naive SAM's in float32: the new weights, and
with rho = 0 those of SGD.
"""

import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from bench import Bench, Variant, agree, ratio
from pytorch_optimizer import SAM as PeerSAM
from torch import Tensor, nn

from sam_repro.architecture import resnet8, resnet18, resnet20, resnet50, wrn28_10
from sam_repro.config.lines import compose_line
from sam_repro.dataset import Batch
from sam_repro.optimizer import SAM, LookSAM, Rule
from sam_repro.optimizer import SGD as OurSGD
from sam_repro.oracle import Objective
from sam_repro.run.numerics import with_numerics
from sam_repro.training import graphs

LR, MOMENTUM, DECAY, RHO = 0.01, 0.9, 5e-4, 0.05
SGD = partial(torch.optim.SGD, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
OUR_SAM = partial(SAM, rho=RHO)
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


def peer(job: Task, preset: Preset, compile: bool = False) -> tuple[nn.Module, Step]:
    """pytorch-optimizer's SAM step with its defaults, on the fused base."""
    model, batches = job.turns(preset)
    forward = torch.compile(model, dynamic=False) if compile else model
    optimizer = PeerSAM(
        model.parameters(), torch.optim.SGD, rho=RHO, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True
    )

    def step() -> Tensor:
        batch = next(batches)
        optimizer.zero_grad()
        loss = passed(forward, *batch, preset)
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
) -> tuple[nn.Module, Step]:
    """Our step."""
    model, batches = job.turns(preset)
    objective = Objective(model, F.cross_entropy, autocast=torch.bfloat16 if preset.bf16 else None, compile=compile)
    made = rule(SGD(model.parameters(), fused=True))

    def update(_: int, batch: Batch) -> graphs.Numbers:
        loss = made.backward(objective(batch.inputs, batch.targets, noise=0), m=m)
        made.update()
        return {"loss": loss}

    act: graphs.Update = update
    if graph:
        act = graphs.Replayed(update, made.phase, lambda _: 0, objective, job.batches[0][1].device)

    def step() -> Tensor:
        images, labels = next(batches)
        numbers = act(made.steps, Batch(images, labels, rows=labels))
        made.steps += 1
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
    agree("our SAM, rho = 0", moved(ours(double, PLAIN, partial(SAM, rho=0.0))), moved(sgd(double, PLAIN)), 1e-12)
    agree("our SAM, bf16, channels_last", moved(ours(job, FAST)), reference, 0.3)


def rows(job: Task, network: str, options: list[dict[str, Any]], peers: bool) -> list[Variant]:
    """The table, SGD first, to which the ratios are; with the peers also other settings and LookSAM."""
    made: list[Variant] = []

    def add(
        name: str, preset: Preset, pair: tuple[nn.Module, Step], units: int = 1, warm_up: int = 1, **facts: Any
    ) -> None:
        run = pair[1] if units == 1 else lambda: [pair[1]() for _ in range(units)]
        about = {"model": network, "batch": len(job.batches[0][1]), "preset": preset.name}
        made.append(Variant(f"{name}, {preset.name}", run, units, warm_up, facts=about | facts))

    for preset in (PLAIN, FAST) if peers else (FAST,):
        add("SGD", preset, sgd(job, preset))
        add("naive SAM", preset, naive(job, preset))
        if peers:
            add("2 x SGD", preset, sgd(job, preset, times=2))
            add("pytorch-optimizer SAM", preset, peer(job, preset))
        add("our SAM", preset, ours(job, preset))
    if peers:
        add("our SAM", FULL, ours(job, FULL))
        add("our LookSAM-5", FAST, ours(job, FAST, partial(LookSAM, rho=RHO)), units=5)
        if any(option.get("compile") for option in options):
            add("naive SAM compile=True", FAST, naive(job, FAST, compile=True), warm_up=2)
            add("pytorch-optimizer SAM compile=True", FAST, peer(job, FAST, compile=True), warm_up=2)
    for option in options:
        words, warm_up = " ".join(f"{key}={value}" for key, value in option.items()), graphs.WARM_UP + 1
        add(f"our SAM {words}", FAST, ours(job, FAST, **option), warm_up=warm_up, **option)
        if "m" not in option:
            add(f"our SGD {words}", FAST, ours(job, FAST, OurSGD, **option), warm_up=warm_up, **option)
    return made


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
    """G1 to G5, G7 and G8 of a table, all as time over time; the rooflines are those of bench_roofline."""
    naive_sam = f"naive SAM, {FAST.name}"
    best = min((name for name in seconds if name.startswith("our SAM")), key=lambda name: min(seconds[name]))
    bench.note(f"      {network}: best of ours is {best}")
    bench.target("G5", f"{network}: {best} / {naive_sam}", ratio(seconds, best, naive_sam), 1 / 1.6, 1 / 2)
    plain = f"our SAM, {FAST.name}"
    bench.target("G7", f"{network}: {plain} / SGD", ratio(seconds, plain, f"SGD, {FAST.name}"), 2.05, 2.0)
    for one in seconds:
        other = one.replace("our SAM", "our SGD")
        if one != other and other in seconds:
            bench.target("G7", f"{network}: {one} / SGD", ratio(seconds, one, other), 2.05, 2.0)
        eager = one.replace(" graph=True", "")
        if one.startswith("our SAM") and one != eager:
            limits = (1 / 1.8, 1 / 2.5) if "m=32" in one else (1 / 2, 1 / 3)
            bench.target("G8", f"{network}: {one} / eager", ratio(seconds, one, eager), *limits)
    path = bench.arguments.out / "bench_roofline.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for line in lines:
        if (line.get("model"), line.get("batch")) == (network, batch):
            taken = statistics.median(seconds[best])
            bench.target("G1-4", f"{network}: step / roofline", taken / line["sam_step_seconds"], 1 / 0.45, 1 / 0.6)


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


def main() -> None:
    bench = Bench("bench_step", __doc__)
    compiled: list[dict[str, Any]] = [{"compile": True}] if bench.compile else []
    if bench.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        graph: list[dict[str, Any]] = [{"graph": True}]
        parts: list[dict[str, Any]] = [{"m": 32}, {"m": 32, "graph": True}]
        compiled += [
            {**option, "graph": True} for option in compiled
        ]  # in one case, because each takes a minute or two
        cases = [
            ("ResNet-18", resnet18, 128, 32, graph + parts + compiled),
            ("ResNet-18", resnet18, 256, 32, graph + parts),
            ("ResNet-20", resnet20, 128, 32, graph),
            ("WRN-28-10", wrn28_10, 128, 32, graph),
        ]
        cases += (
            [] if bench.quick else [("ResNet-50", resnet50, 128, 224, graph), ("ViT-S/16", vit_small, 128, 224, graph)]
        )
    else:
        cases = [("ResNet-20", resnet20, 16 if bench.quick else 128, 32, compiled)]
    check(task(resnet8, 32, bench.device))
    for network, make, batch, pixels, options in cases:
        job, first = task(make, batch, bench.device, pixels), (network, batch) == (cases[0][0], cases[0][2])
        variants = rows(job, network, options, peers=first)
        seconds = bench.measure(f"steps, {network}, batch {batch}", variants, "step")
        if first:
            targets(bench, seconds, network)
        if bench.device.type == "cuda":
            gpu_targets(bench, seconds, network, batch)
            on_the_host(bench, variants)
    bench.close()


if __name__ == "__main__":
    main()
