"""Learning-rate schedules."""

from sam_repro.schedule.cosine import Cosine
from sam_repro.schedule.multi_step import MultiStep
from sam_repro.schedule.schedule import Constant, Schedule

__all__ = ["Constant", "Cosine", "MultiStep", "Schedule"]
