"""Data sets: a source gives `Examples`, `prepare` makes of them the `Data` of a run, whose splits give batches."""

from sam_repro.dataset.images import Data, DataError, Examples, Images
from sam_repro.dataset.label_noise import LabelNoise
from sam_repro.dataset.split import Batch, Raw, Resident, Split
from sam_repro.dataset.validation import Validation, prepare

__all__ = [
    "Batch",
    "Data",
    "DataError",
    "Examples",
    "Images",
    "LabelNoise",
    "Raw",
    "Resident",
    "Split",
    "Validation",
    "prepare",
]
