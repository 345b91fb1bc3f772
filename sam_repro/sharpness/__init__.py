"""Measures of sharpness, each with its protocol."""

from sam_repro.sharpness.average_case import AverageCase
from sam_repro.sharpness.curvature import Curvature, undisturbed
from sam_repro.sharpness.hessian import Hessian
from sam_repro.sharpness.lambda_max import LambdaMax
from sam_repro.sharpness.landscape import Landscape
from sam_repro.sharpness.luong2024 import Luong2024
from sam_repro.sharpness.m_sharpness import MSharpness
from sam_repro.sharpness.measure import Measure, OnSample, Subject
from sam_repro.sharpness.measurement import Measurement, Unmeasurable
from sam_repro.sharpness.notes import Notes
from sam_repro.sharpness.worst_case import WorstCase

__all__ = [
    "AverageCase",
    "Curvature",
    "Hessian",
    "LambdaMax",
    "Landscape",
    "Luong2024",
    "MSharpness",
    "Measure",
    "Measurement",
    "Notes",
    "OnSample",
    "Subject",
    "Unmeasurable",
    "WorstCase",
    "undisturbed",
]
