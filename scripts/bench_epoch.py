"""Whole epochs: the trainer against bare steps, against plain and good loops from public parts, and part by part.

    python scripts/bench_epoch.py [--quick] [--gpu] [--data DIR]

Epochs are shortened (the table says to how many images): the ratios do not depend on their length, since everything in
them is per image or per step but for one evaluation, which is shortened alike. CIFAR-100 if --data names its folder,
else random images of its shape. Every epoch starts from the same weights.
"""

import copy
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench import Bench, Variant, ratio
from bench_data import MEAN, STD, Images, crop_and_flip, kornia_batches, our_batches, pil_loader
from bench_step import (
    FAST,
    FULL,
    LR,
    OUR_SAM,
    PLAIN,
    RHO,
    SGD,
    NaiveSAM,
    Network,
    PeerSAM,
    Preset,
    default,
    ours,
    passed,
    task,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from sam_repro.architecture import resnet8, resnet18, resnet20
from sam_repro.augmentation import Augmentation
from sam_repro.dataset import Data, DataError, Resident
from sam_repro.dataset.downloads import cifar100
from sam_repro.optimizer import Rule, Terms, TwoPass
from sam_repro.oracle import Objective, Oracle
from sam_repro.schedule import Cosine
from sam_repro.training import graphs
from sam_repro.training.diagnostics import Diagnostics
from sam_repro.training.plan import Plan
from sam_repro.training.trainer import Trainer
from sam_repro.vectors import Vector

BATCH = 128


class Silent:
    """Listens to a run and says nothing."""

    def step(self, done: int) -> None:
        """Nothing."""

    def row(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def saving(self) -> None:
        """Nothing."""


class OneByOne(TwoPass):
    """SAM with a loop over the parameters, as the naive one: what the lists of tensors save."""

    def terms(self, oracle: Oracle, phase: str) -> Terms:
        """The two gradients."""
        w = self.params
        first = oracle.gradient(w)
        with torch.no_grad():
            length = torch.stack([g.norm(p=2) for g in first.vector]).norm(p=2)
            saved = [p.clone() for p in w]
            for p, g in zip(w, first.vector, strict=True):
                p.add_(g * (RHO / (length + 1e-12)))
        second = oracle.gradient(w, update_statistics=False)
        with torch.no_grad():
            for p, before in zip(w, saved, strict=True):
                p.copy_(before)
        return {"g": first, "g_s": second}

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """g_s."""
        return g_s


class ByPIL(Augmentation):
    """In the place of the augmentation: the loader's transforms, image by image."""

    def __init__(self) -> None:
        super().__init__(MEAN, STD)
        self.transform = pil_loader(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 1).dataset.transform

    def apply(self, images: Tensor, draws: Any) -> Tensor:
        """A batch, augmented."""
        items = Images(images.cpu(), self.transform, pil=True)
        return torch.stack([items[i] for i in range(len(items))]).to(images.device)


class Setup:
    """What all epochs have in common: data, network, length."""

    def __init__(self, network: Callable[..., nn.Module], data: Data, device: torch.device) -> None:
        torch.manual_seed(0)
        self.data, self.device = data.to(device), device
        self.start = network(num_classes=data.train.num_classes, in_channels=3, image_size=32).to(device)

    def model(self, preset: Preset) -> nn.Module:
        """A fresh copy in the preset's layout."""
        layout = torch.channels_last if preset.channels_last else torch.contiguous_format
        return copy.deepcopy(self.start).to(memory_format=layout)

    @torch.no_grad()
    def reset(self, model: nn.Module) -> None:
        """Back to the start, in place."""
        for own, start in zip(model.state_dict().values(), self.start.state_dict().values(), strict=True):
            own.copy_(start)

    def trainer(
        self,
        preset: Preset = FAST,
        *,
        rule: Callable[..., Rule] = OUR_SAM,
        fused: bool = True,
        augmentation: Augmentation | None = None,
        diagnostics: str = "standard",
        compile: bool = False,
        **plan: Any,
    ) -> Trainer:
        """Our trainer for one epoch."""
        model = self.model(preset)
        autocast = torch.bfloat16 if preset.bf16 else None
        train = replace(self.data.train, augmentation=augmentation or crop_and_flip())
        numbers = {"seed": 0, "epochs": 1, "batch_size": BATCH, "lr": LR, "checkpoint_every": 1e9} | plan
        return Trainer(
            Objective(model, F.cross_entropy, autocast=autocast, compile=compile),
            rule(SGD(model.parameters(), fused=fused, foreach=False)),
            Cosine(),
            replace(self.data, train=train),
            Plan(**numbers),
            Diagnostics(diagnostics),
            Path(tempfile.gettempdir()),
        )

    def ours(self, name: str, *given: Any, **options: Any) -> Variant:
        """An epoch of our trainer, from the same weights in each timing, with evaluation and record."""
        trainer = self.trainer(*given, **options)

        def prepare() -> None:
            self.reset(trainer.model)
            for state in trainer.rule.base.state.values():
                state["momentum_buffer"].zero_()
            trainer.rule.steps = 0

        # a graph is captured after some eager steps of its kind, of which an epoch may have few
        warm_up = 1 + graphs.WARM_UP if options.get("graph") else 1
        return Variant(name, lambda: trainer.run(Silent()), warm_up=warm_up, prepare=prepare)

    def plain_loop(self) -> Variant:
        """(a): DataLoader, PIL, naive SAM in float32, the loss read in every step, evaluation by a loader."""
        train, test = self.data.train, self.data.test
        loader = pil_loader(train.images.cpu(), BATCH)
        loader.dataset.items = list(zip(loader.dataset.items, train.labels.tolist(), strict=True))
        augment = loader.dataset.transform
        loader.dataset.transform = lambda item: (augment(item[0]), item[1])
        to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        tests = DataLoader(Images(test.images.cpu(), to_tensor, pil=True), BATCH)

        model = self.model(PLAIN)
        optimizer = NaiveSAM(model)

        def epoch() -> None:
            model.train()
            for images, labels in loader:
                images, labels = images.to(self.device), labels.to(self.device)
                passed(model, images, labels, PLAIN).item()
                optimizer.first_step()
                passed(model, images, labels, PLAIN)
                optimizer.second_step()
            model.eval()
            with torch.no_grad():
                outputs = torch.cat([model(images.to(self.device)) for images in tests])
            (outputs.argmax(dim=1) == test.labels).double().mean().item()

        numbers = "tf32" if self.device.type == "cuda" else "fp32"
        return Variant(
            f"(a) DataLoader, PIL, naive SAM, {numbers} contiguous", epoch, prepare=lambda: self.reset(model)
        )

    def good_loop(self, preset: Preset, compile: bool = False) -> Variant:
        """(b): resident data, kornia, pytorch-optimizer's SAM, fused base, metrics on the device."""
        train, test = self.data.train, self.data.test
        augment, normalise = kornia_batches(train.images), Augmentation(MEAN, STD).normalise
        layout = torch.channels_last if preset.channels_last else torch.contiguous_format

        model = self.model(preset)
        forward = torch.compile(model, dynamic=False) if compile else model
        optimizer = PeerSAM(
            model.parameters(), torch.optim.SGD, rho=RHO, lr=LR, momentum=0.9, weight_decay=5e-4, fused=True
        )

        def epoch() -> None:
            model.train()
            total = torch.zeros((), device=self.device)
            for rows in torch.randperm(len(train), device=self.device).split(BATCH):
                with torch.no_grad():
                    images = augment(rows).contiguous(memory_format=layout)
                labels = train.labels[rows]
                optimizer.zero_grad()
                total += passed(forward, images, labels, preset)
                optimizer.first_step(zero_grad=True)
                passed(forward, images, labels, preset)
                optimizer.second_step(zero_grad=True)
            model.eval()
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=preset.bf16):
                outputs = torch.cat([model(normalise(images)).float() for images in test.images.split(1000)])
            float(total), (outputs.argmax(dim=1) == test.labels).double().mean().item()

        words = ", compile" if compile else ""
        name = f"(b) resident, kornia, pytorch-optimizer SAM, {preset.name}{words}"
        return Variant(name, epoch, prepare=lambda: self.reset(model))


def loop_against_steps(bench: Bench, setup: Setup) -> None:
    """S10: what the loop adds to its steps; G9 and G10: augmentation and evaluation, as shares of an epoch."""
    preset, test = default(setup.device), setup.data.test
    short = resident(test.images[:1], test.labels[:1])
    bare = Setup(lambda **_: setup.start, Data(setup.data.train, None, short), setup.device)
    train, steps = bare.data.train, len(bare.data.train) // BATCH
    images = torch.randn(steps, BATCH, 3, 32, 32).to(setup.device)
    batches = list(zip(images, train.labels.view(steps, BATCH), strict=True))
    trainer = bare.trainer(preset)
    augment = our_batches(train.images, cutout=16)
    order = torch.randperm(len(train)).to(setup.device).split(BATCH)

    variants = [
        Variant("bare steps", lambda: [trainer.rule.step(trainer.objective(*batch)) for batch in batches]),
        bare.ours("trainer", preset),
        bare.ours("trainer, diagnostics=loss", preset, diagnostics="loss"),
        bare.ours("trainer, record_every=1", preset, record_every=1),
        setup.ours("trainer, evaluation", preset),
        Variant("crop, flip and cutout alone", lambda: [augment(rows) for rows in order]),
    ]
    title = f"loop against bare steps, {steps} steps, {len(test)} test images, {preset.name}"
    seconds = bench.measure(title, variants, "epoch")
    bench.target("S10", "epoch / (steps x bare step)", ratio(seconds, "trainer", "bare steps"), 1.05, 1.02)
    evaluated, augmented = "trainer, evaluation", "crop, flip and cutout alone"
    bench.target("G9", "augmentation / epoch", ratio(seconds, augmented, evaluated), 0.02, 0.01)
    bench.target("G10", "epoch with evaluation / bare steps", ratio(seconds, evaluated, "bare steps"), 1.08, 1.05)


def end_to_end(bench: Bench, setup: Setup) -> None:
    """Against (a) and (b)."""
    images = f"{len(setup.data.train)} + {len(setup.data.test)} test images"
    presets = dict.fromkeys([FULL, FAST])
    plain, good = setup.plain_loop(), {preset: setup.good_loop(preset) for preset in presets}
    own = {preset: setup.ours(f"ours, {preset.name}", preset) for preset in presets}
    faster = [{"compile": True}] if bench.compile else []
    if setup.device.type == "cuda":
        faster = [{"graph": True}, *faster, *({**option, "graph": True} for option in faster)]
    fastest = [setup.ours(f"ours, {FAST.name}, {', '.join(option)}", FAST, **option) for option in faster]
    compiled = [setup.good_loop(FAST, compile=True)] if bench.compile else []
    variants = [plain, *good.values(), *own.values(), *compiled, *fastest]
    seconds = bench.measure(f"end to end, {images}", variants, "epoch")
    for one in (*own.values(), *fastest):
        others = [plain, good[FULL] if one is own[FULL] else good[FAST], *(compiled if one in fastest else [])]
        for other in others:
            bench.note(f"      {one.name} / {other.name}: {ratio(seconds, one.name, other.name):.3f}")
    bench.target("G6", "our default / (a)", ratio(seconds, own[default(setup.device)].name, plain.name), 1 / 4, 1 / 6)
    if setup.device.type == "cuda":
        whole = 50_000 / len(setup.data.train)
        for one in (*own.values(), *fastest):
            minutes = 200 * whole * statistics.median(seconds[one.name]) / 60
            bench.note(f"      {one.name}: {minutes:.3g} min for 200 epochs of 50 000 images, by projection")


def first_step(kind: str, network: Network, options: dict[str, Any]) -> float:
    """Seconds from a network to its first steps in the fast setting, compilation and capture included."""
    job = task(network, BATCH, torch.device(kind))
    began = time.perf_counter()
    _, step = ours(job, FAST, **options)
    for _ in range(graphs.WARM_UP + 1):
        loss = step()
    float(loss)
    return time.perf_counter() - began


def warm_up(bench: Bench, network: Network) -> None:
    """G12: with an empty cache of the compiler, and with what that left; each in a process of its own."""
    options = {"compile": True} | ({"graph": True} if bench.device.type == "cuda" else {})
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for words, limit, stretch in (("cold", 120, 60), ("cached", 30, 15)):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds = pool.apply(first_step, (bench.device.type, network, options))
            bench.target("G12", f"first steps, {', '.join(options)}, {words}, seconds", seconds, limit, stretch)
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]


def ablation(bench: Bench, setup: Setup) -> None:
    """Each part of the fast set-up left out, one at a time."""
    variants = [
        setup.ours("all on"),
        setup.ours("fp32 for bf16", Preset(bf16=False, channels_last=True)),
        setup.ours("contiguous for channels_last", Preset(bf16=True, channels_last=False)),
        setup.ours("a loop over parameters for foreach", rule=partial(OneByOne, rho=RHO)),
        setup.ours("single-tensor SGD for fused", fused=False),
        setup.ours("PIL image by image for the batch", augmentation=ByPIL()),
        setup.ours("numbers read in every step", record_every=1),
        setup.ours("diagnostics=loss for standard", diagnostics="loss"),
        *([setup.ours("with compile", compile=True)] if bench.compile else []),
        *([setup.ours("with graph", graph=True)] if setup.device.type == "cuda" else []),
    ]
    bench.measure(f"ablation, {len(setup.data.train)} images", variants, "epoch")


def data(folder: Path | None, train: int, test: int) -> Data:
    """The first images of CIFAR-100, or random ones of its shape."""
    if folder is None:
        images = torch.randint(256, (train + test, 3, 32, 32), dtype=torch.uint8)
        labels = torch.randint(100, (train + test,))
    else:
        try:
            given = cifar100(data_dir=str(folder), download=False)
        except DataError as error:
            raise SystemExit(str(error)) from None
        images = torch.cat([given.train_images[:train], given.test_images[:test]])
        labels = torch.cat([given.train_labels[:train], given.test_labels[:test]])
    training, testing = map(resident, images.split([train, test]), labels.split([train, test]))
    return Data(training, None, testing)


def resident(images: Tensor, labels: Tensor) -> Resident:
    """A split of these images, not augmented."""
    plain = Augmentation(MEAN, STD)
    return Resident(images=images, labels=labels, clean_labels=labels, num_classes=100, augmentation=plain)


def main() -> None:
    bench = Bench("bench_epoch", __doc__)
    cuda = bench.device.type == "cuda"
    network = resnet18 if cuda else resnet8 if bench.quick else resnet20
    if cuda:
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "tf32"
    length = (98, 20) if cuda else (2, 1) if bench.quick else (5, 1)
    setup = Setup(network, data(bench.arguments.data, BATCH * length[0], BATCH * length[1]), bench.device)
    loop_against_steps(bench, setup)
    end_to_end(bench, setup)
    ablation(bench, setup)
    if bench.compile:
        warm_up(bench, network)
    bench.close()


if __name__ == "__main__":
    main()
