"""What was printed and where ours would come from: the claims of all tables counted, and none of them twice.

That every cell which does not wait composes is tested with the recipes, in tests/test_recipes.py.
"""

import re
from collections import Counter, defaultdict

import pytest

from sam_repro.config.lines import read_table
from sam_repro.config.options import table_names

TABLES = [read_table(name) for name in table_names()]
PAPERS = sorted({table.name.partition("/")[0] for table in TABLES if table.claims})

COUNTED = {  # a blank is ours to fill; the literature is shown and not run
    "becker2024": {"value": 47, "value waits": 4, "blank waits": 1, "literature": 7},
    "du2022": {"value": 48, "literature": 82},
    "foret2021": {"value": 275, "value waits": 35, "literature": 46},
    "liu2022": {"value": 13, "blank": 29, "value waits": 1, "blank waits": 12, "literature": 2},
    "luong2024": {"value": 319, "blank": 73, "value waits": 18},
}
PRINTED = {"becker2024": 59, "du2022": 130, "foret2021": 356, "liu2022": 57, "luong2024": 473}


def claims(paper):
    """Each claim of a paper with its table."""
    return [(table, claim) for table in TABLES if table.name.startswith(f"{paper}/") for claim in table.claims]


def kind(table, claim):
    if claim.literature:
        return "literature"
    waits = [any(table.cell(name).waiting for name in pick.cells) for pick in claim.readings.values()]
    value = "blank" if claim.value is None else "value"
    return f"{value} waits" if (any(waits) if claim.derived else all(waits)) else value


def places(table, claim):
    """Where it was printed: in a table of the paper that the file names, or in several numbered ones."""
    several = re.fullmatch(r"t\d+(, t\d+)*", claim.printed)
    return claim.printed.split(", ") if several else [claim.printed or table.name]


def test_a_paper_whose_claims_are_counted_has_some():
    assert sorted(COUNTED) == sorted(PRINTED) == PAPERS


@pytest.mark.parametrize("paper", COUNTED)
def test_claims_are_as_many_as_counted(paper):
    assert Counter(kind(table, claim) for table, claim in claims(paper)) == COUNTED[paper]


@pytest.mark.parametrize("paper", PRINTED)
def test_printed_numbers_and_blanks_are_as_many_as_counted(paper):
    assert sum(len(places(table, claim)) for table, claim in claims(paper)) == PRINTED[paper]


@pytest.mark.parametrize("paper", COUNTED)
def test_no_claim_is_made_twice(paper):
    made = defaultdict(list)
    for table, claim in claims(paper):
        for place in places(table, claim):
            made[claim.row, claim.metric, place].append(table.name)
    assert {claim: where for claim, where in made.items() if len(where) > 1} == {}


def test_a_cell_that_waits_says_what_for():
    waiting = [(table.name, cell.name, cell.waiting) for table in TABLES for cell in table.cells if cell.waiting]
    assert [cell for cell in waiting if not isinstance(cell[2], str) or len(cell[2]) < 8] == []
