"""Data sets: a source gives `Images`, `prepare` makes of them the `Data` of a run."""

from sam_repro.dataset.images import Data, DataError, Images, Split
from sam_repro.dataset.label_noise import LabelNoise
from sam_repro.dataset.split import Validation, prepare

__all__ = ["Data", "DataError", "Images", "LabelNoise", "Split", "Validation", "prepare"]
