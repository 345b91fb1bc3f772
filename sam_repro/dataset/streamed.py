"""A split whose images are files: worker processes decode them, a few batches ahead."""

import hashlib
from collections import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from sam_repro.augmentation import View
from sam_repro.dataset.images import DataError
from sam_repro.dataset.split import Raw, Split
from sam_repro.files import replacing
from sam_repro.seeds import derived
from sam_repro.signals import block_signals

MODES = {1: "L", 3: "RGB"}
DEEP = ("I", "F")  # how PIL's modes begin that have more than 8 bits


@dataclass(frozen=True)
class Decoder:
    """Makes squares of image files.

    Args:
        root: the folder that paths are relative to.
        size: pixels a side.
        channels: 3, where grey images become colour and transparency is dropped, or 1, where colour becomes grey.
        plain: the view on which a run is measured.
        cache: a folder where decoded images are kept, about 3 bytes a pixel; None keeps none.
    """

    root: Path
    size: int
    channels: int
    plain: View
    cache: Path | None = None

    def __call__(self, file: str, view: View, generator: Generator) -> Tensor:
        """The image, [C, size, size], uint8.

        Raises:
            DataError: if it cannot be decoded.
        """
        path = self.root / file
        try:
            square = view(self._decode(path), self.size, generator)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: cannot be decoded ({reason}); mend it or take it away") from None
        pixels = torch.from_numpy(np.array(square))
        return pixels.view(self.size, self.size, self.channels).permute(2, 0, 1)

    def _decode(self, path: Path) -> Image.Image:
        """The whole image, decoded now or by whoever kept it: a file that changed since is another one."""
        if self.cache is None:
            return self._open(path)
        state = path.stat()
        facts = (str(path.absolute()), state.st_size, state.st_mtime_ns, self.channels)
        name = hashlib.sha256(repr(facts).encode()).hexdigest()
        kept = self.cache / name[:2] / f"{name}.npy"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with replacing(kept) as file:
                np.save(file, np.asarray(self._open(path)))
        return Image.fromarray(np.load(kept))

    def _open(self, path: Path) -> Image.Image:
        with Image.open(path) as image:
            if image.mode.startswith(DEEP):
                raise ValueError(f"its pixels have more than 8 bits, mode {image.mode}")
            return image.convert(MODES[self.channels])


@dataclass(frozen=True)
class _Batches(Dataset[Raw | str]):
    """(rows, seed) → a batch, in whatever process; a text says what is wrong with an image."""

    files: Sequence[str]
    decoder: Decoder
    view: View

    def __getitem__(self, place: tuple[Tensor, int | None]) -> Raw | str:
        rows, seed = place
        size = self.decoder.size
        images = torch.empty(len(rows), self.decoder.channels, size, size, dtype=torch.uint8)
        generator = Generator()
        try:
            for position, row in enumerate(rows.tolist()):
                if seed is not None:
                    generator.manual_seed(derived(seed, row))
                images[position] = self.decoder(self.files[row], self.view, generator)
        except DataError as error:  # as a value: what a worker raises comes with its traceback
            return str(error)
        return Raw(rows, images)


@dataclass(frozen=True, eq=False, kw_only=True)
class Streamed(Split):
    """A split whose images are decoded when they are needed. Nothing is kept but the names of the files.

    What an image becomes is a function of its row and of its batch's seed: any number of workers reads the same, and
    none of them has a state that a checkpoint would have to hold. What the augmentation draws for a batch is drawn on
    the CPU, and so is the same for every device.

    Args:
        files: [N] paths.
        decoder: file → square.
        workers: processes that decode; 0 decodes in this one.
    """

    files: Sequence[str]
    decoder: Decoder
    workers: int

    @property
    def drawn_on(self) -> torch.device:
        """The CPU, where the host needs the rows."""
        return torch.device("cpu")

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W of an image."""
        return self.decoder.channels, self.decoder.size, self.decoder.size

    def read(self, rows: Iterable[Tensor], seeds: Iterable[int] | None = None) -> abc.Generator[Raw]:
        """Batches of decoded images, on the device; with seeds in the view of the augmentation, if it has one.

        Raises:
            DataError: naming the file that cannot be decoded.
        """
        view = self.decoder.plain if seeds is None else self.augmentation.view or self.decoder.plain
        loader = DataLoader(
            _Batches(self.files, self.decoder, view),
            batch_size=None,
            sampler=zip(rows, repeat(None) if seeds is None else seeds, strict=False),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=Generator(),  # its own, so that torch's is not moved
        )
        with block_signals():  # what stops a run is for this process, which lets the workers go
            batches = iter(loader)
        yield from self._arriving(batches) if self.device.type == "cuda" else map(_sound, batches)

    def pixels(self, raw: Raw) -> Tensor:
        """The images of a batch."""
        assert raw.images is not None
        return raw.images

    def _arriving(self, batches: Iterable[Raw | str]) -> abc.Generator[Raw]:
        """Batches on the GPU: each is copied from pinned memory while the one before it is at work."""
        copies, ahead = torch.cuda.Stream(self.device), None
        for batch in batches:
            with torch.cuda.stream(copies):
                on_device = Raw(*(x.to(self.device, non_blocking=True) for x in _sound(batch) if x is not None))
                arrived = copies.record_event()
            if ahead is not None:
                yield _take(*ahead)
            ahead = on_device, arrived
        if ahead is not None:
            yield _take(*ahead)


def _take(raw: Raw, arrived: torch.cuda.Event) -> Raw:
    """A batch that this stream may use once it has arrived; its memory is kept until the stream has done so."""
    stream = torch.cuda.current_stream(raw.rows.device)
    stream.wait_event(arrived)
    for tensor in raw:
        if tensor is not None:
            tensor.record_stream(stream)
    return raw


def _sound(batch: Raw | str) -> Raw:
    if isinstance(batch, str):
        raise DataError(batch)
    return batch
