"""Prices: the words, sums of which a part is unknown, and what a pass, a forward and a product take."""

import platform
from pathlib import Path

import pytest

from sam_repro.optimizer import Cost
from sam_repro.table.cost import Price, _in_passes, _speeds
from sam_repro.table.runs import Run

COST = {"passes": 20, "products": 4, "seconds": 10.0}


def test_a_cost_says_what_it_has() -> None:
    assert str(Cost(passes=1280)) == "1,280 passes"
    assert str(Cost(passes=0, forwards=2, products=3)) == "0 passes, 2 forwards, 3 products"


def test_prices_add_up_and_what_is_unknown_stays_so() -> None:
    known, untimed = Price(Cost(2, 1, 1), 60.0), Price(Cost(1), None)
    assert known.times(3) + known == Price(Cost(8, 4, 4), 240.0)
    assert known + untimed == Price(Cost(3, 1, 1), None)
    assert str(known.times(3)) == "6 passes, 3 forwards, 3 products, about 3.0 min"
    assert str(untimed) == "1 pass, not timed here yet"
    assert str(known + Price(None, None)) == "passes unknown: dataset.train_images is not set"


@pytest.mark.parametrize(("own", "passes"), [({}, 34), ({"forwards": 0}, 34), ({"forwards": 6}, 36)])
def test_a_pass_takes_what_is_left_of_forwards_and_products(own: dict[str, float], passes: float) -> None:
    """Of records from before forwards were counted, too."""
    assert _in_passes(COST | own) == pytest.approx(passes)
    keys = ["batch_size", "m", "precision", "channels_last", "compile", "threads"]
    config = {"device": "cpu", "choices": {"dataset": "digits", "architecture": "net"}} | dict.fromkeys(keys)
    run = Run(Path(), {"cost": COST | own, "environment": {"host": platform.node()}, "config": config})
    run.__dict__["config"] = config  # as of today
    assert list(_speeds([run]).values()) == pytest.approx([10.0 / passes])
