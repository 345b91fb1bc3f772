"""Whole epochs: the trainer against bare steps, against plain and good loops from public parts, and part by part.

    python scripts/bench_epoch.py [--quick] [--gpu] [--data DIR]

Epochs are shortened (the table says to how many images): the ratios do not depend on their length, since everything in
them is per image or per step but for one evaluation, which is shortened alike. CIFAR-100 if --data names its folder,
else random images of its shape. Every epoch starts from the same weights.
"""

import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench import Bench, Variant, ratio
from bench_data import MEAN, STD, Images, kornia_batches, pil_loader
from bench_step import DEFAULT, FAST, LR, OUR_SAM, PLAIN, RHO, SGD, NaiveSAM, PeerSAM, Preset, passed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from sam_repro.architecture import resnet8, resnet18, resnet20
from sam_repro.augmentation import Augmentation
from sam_repro.dataset import Data, Split
from sam_repro.dataset.downloads import cifar100
from sam_repro.diagnostics import Diagnostics
from sam_repro.optimizer import Rule, TwoPass
from sam_repro.oracle import Objective, Oracle, Term
from sam_repro.schedule import Cosine
from sam_repro.trainer import Plan, Trainer
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

    def terms(self, oracle: Oracle, phase: str) -> list[Term]:
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
        return [first, second]

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """g_s."""
        return g_s


class ByPIL:
    """In the place of the augmentation: the loader's transforms, image by image."""

    def __init__(self) -> None:
        self.transform = pil_loader(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 1).dataset.transform
        self.normalise = Augmentation(MEAN, STD).normalise

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A batch, augmented."""
        items = Images(images.cpu(), self.transform, pil=True)
        return torch.stack([items[i] for i in range(len(items))]).to(images.device)


class Setup:
    """What all epochs have in common: data, network, length."""

    def __init__(self, network: Callable[..., nn.Module], data: Data, device: torch.device) -> None:
        torch.manual_seed(0)
        self.data, self.device = data.to(device), device
        self.start = network(num_classes=data.num_classes, in_channels=3, image_size=32).to(device)

    def model(self, preset: Preset) -> nn.Module:
        """A fresh copy in the preset's layout."""
        layout = torch.channels_last if preset.channels_last else torch.contiguous_format
        return copy.deepcopy(self.start).to(memory_format=layout)

    def trainer(
        self,
        preset: Preset = FAST,
        *,
        rule: Callable[..., Rule] = OUR_SAM,
        fused: bool = True,
        augmentation: Any = None,
        diagnostics: str = "standard",
        compile: bool = False,
        **plan: Any,
    ) -> Trainer:
        """Our trainer for one epoch."""
        model = self.model(preset)
        autocast = torch.bfloat16 if preset.bf16 else None
        numbers = {"seed": 0, "epochs": 1, "batch_size": BATCH, "lr": LR, "checkpoint_every": 1e9} | plan
        return Trainer(
            Objective(model, F.cross_entropy, autocast=autocast, compile=compile),
            rule(SGD(model.parameters(), fused=fused, foreach=False)),
            Cosine(),
            self.data,
            augmentation or Augmentation(MEAN, STD, pad=4, flip=True),
            Plan(**numbers),
            Diagnostics(diagnostics),
            Path(tempfile.gettempdir()),
        )

    def ours(self, name: str, *given: Any, **options: Any) -> Variant:
        """An epoch of our trainer, made anew for each timing, with evaluation and record."""
        made: list[Trainer] = []

        def prepare() -> None:
            made[:] = [self.trainer(*given, **options)]

        return Variant(name, lambda: made[0].run(Silent()), prepare=prepare)

    def plain_loop(self) -> Variant:
        """(a): DataLoader, PIL, naive SAM in float32, the loss read in every step, evaluation by a loader."""
        train, test = self.data.train, self.data.test
        loader = pil_loader(train.images.cpu(), BATCH)
        loader.dataset.items = list(zip(loader.dataset.items, train.labels.tolist(), strict=True))
        augment = loader.dataset.transform
        loader.dataset.transform = lambda item: (augment(item[0]), item[1])
        to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        tests = DataLoader(Images(test.images.cpu(), to_tensor, pil=True), BATCH)

        def epoch() -> None:
            model = self.model(PLAIN)
            optimizer = NaiveSAM(model)
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

        return Variant("(a) DataLoader, PIL, naive SAM, fp32 contiguous", epoch)

    def good_loop(self, preset: Preset, compile: bool = False) -> Variant:
        """(b): resident data, kornia, pytorch-optimizer's SAM, fused base, metrics on the device."""
        train, test = self.data.train, self.data.test
        augment, normalise = kornia_batches(train.images), Augmentation(MEAN, STD).normalise
        layout = torch.channels_last if preset.channels_last else torch.contiguous_format

        def epoch() -> None:
            model = self.model(preset)
            forward = torch.compile(model, dynamic=False) if compile else model
            optimizer = PeerSAM(
                model.parameters(), torch.optim.SGD, rho=RHO, lr=LR, momentum=0.9, weight_decay=5e-4, fused=True
            )
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
        return Variant(f"(b) resident, kornia, pytorch-optimizer SAM, {preset.name}{words}", epoch)


def loop_against_steps(bench: Bench, setup: Setup) -> None:
    """S10: what the loop adds to its steps. No evaluation: the test set is one image."""
    one = setup.data.test
    short = Split(one.images[:1], one.labels[:1], one.clean_labels[:1])
    bare = Setup(lambda **_: setup.start, Data(setup.data.train, None, short, setup.data.num_classes), setup.device)
    steps = len(bare.data.train) // BATCH
    images = torch.randn(steps, BATCH, 3, 32, 32).to(setup.device)
    batches = list(zip(images, bare.data.train.labels.view(steps, BATCH), strict=True))
    made: list[Callable[[], None]] = []

    def prepare() -> None:
        trainer = bare.trainer(DEFAULT)

        def run() -> None:
            for batch in batches:
                trainer.rule.step(trainer.objective(*batch))

        made[:] = [run]

    variants = [
        Variant("bare steps", lambda: made[0](), prepare=prepare),
        bare.ours("trainer", DEFAULT),
        bare.ours("trainer, diagnostics=loss", DEFAULT, diagnostics="loss"),
        bare.ours("trainer, record_every=1", DEFAULT, record_every=1),
    ]
    seconds = bench.measure(f"loop against bare steps, {steps} steps, {DEFAULT.name}", variants, "epoch")
    bench.target("S10", "epoch / (steps x bare step)", ratio(seconds, "trainer", "bare steps"), 1.05, 1.02)


def end_to_end(bench: Bench, setup: Setup, compile: bool) -> None:
    """Against (a) and (b)."""
    images = f"{len(setup.data.train)} + {len(setup.data.test)} test images"
    variants = [
        setup.plain_loop(),
        setup.good_loop(DEFAULT),
        setup.good_loop(FAST),
        setup.ours(f"ours, {DEFAULT.name}", DEFAULT),
        setup.ours(f"ours, {FAST.name}", FAST),
    ]
    if compile:
        variants += [setup.good_loop(FAST, compile=True), setup.ours("ours, compile", FAST, compile=True)]
    if setup.device.type == "cuda":
        variants += [setup.ours("ours, graph", FAST, graph=True)]
        variants += [setup.ours("ours, compile, graph", FAST, compile=True, graph=True)] if compile else []
    seconds = bench.measure(f"end to end, {images}", variants, "epoch")
    for preset in (DEFAULT, FAST):
        name = f"ours, {preset.name}"
        for other in (variants[0], variants[1] if preset == DEFAULT else variants[2]):
            bench.note(f"      {name} / {other.name}: {ratio(seconds, name, other.name):.3f}")


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
        *([setup.ours("with compile", compile=True)] if bench.arguments.compile else []),
        *([setup.ours("with graph", graph=True)] if setup.device.type == "cuda" else []),
    ]
    bench.measure(f"ablation, {len(setup.data.train)} images", variants, "epoch")


def data(folder: Path | None, train: int, test: int) -> Data:
    """The first images of CIFAR-100, or random ones of its shape."""
    if folder is None:
        images = torch.randint(256, (train + test, 3, 32, 32), dtype=torch.uint8)
        labels = torch.randint(100, (train + test,))
    else:
        given = cifar100(data_dir=str(folder), download=False)
        images = torch.cat([given.train_images[:train], given.test_images[:test]])
        labels = torch.cat([given.train_labels[:train], given.test_labels[:test]])
    training, testing = (
        Split(x, y, y) for x, y in zip(images.split([train, test]), labels.split([train, test]), strict=True)
    )
    return Data(training, None, testing, num_classes=100)


def main() -> None:
    bench = Bench("bench_epoch", __doc__, compile="also with a compiled forward")
    cuda = bench.device.type == "cuda"
    network = resnet18 if cuda else resnet8 if bench.quick else resnet20
    length = (390, 78) if cuda else (2, 1) if bench.quick else (3, 1)
    setup = Setup(network, data(bench.arguments.data, BATCH * length[0], BATCH * length[1]), bench.device)
    loop_against_steps(bench, setup)
    end_to_end(bench, setup, bench.arguments.compile)
    ablation(bench, setup)
    bench.close()


if __name__ == "__main__":
    main()
