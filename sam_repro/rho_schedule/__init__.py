"""Schedules of the radius."""

from sam_repro.rho_schedule.between import Between
from sam_repro.rho_schedule.late import Late
from sam_repro.rho_schedule.rho_schedule import Constant, LikeLR, RhoSchedule

__all__ = ["Between", "Constant", "Late", "LikeLR", "RhoSchedule"]
