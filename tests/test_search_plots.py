"""Pictures of a store: what is in them, and that they can be made while it is at work."""

from __future__ import annotations

import matplotlib as mpl
import pytest
from test_campaigns import call
from test_search import _stopwatch, finished, run  # noqa: F401 - fixtures

from cnnscale.errors import SearchError
from cnnscale.searching.ledger import Ledger
from cnnscale.searching.plots import save_search, trials_of


def interrupted(model, trial) -> float:
    """By Ctrl-C, at the second seed."""
    if trial.seed:
        raise KeyboardInterrupt
    return 0.5


NAMES = [f"{kind}{suffix}" for kind in ("grid", "bracket", "cost") for suffix in (".png", ".svg")]


def test_a_search_has_three_pictures_in_two_formats(finished, tmp_path):  # noqa: F811
    folder, result = finished
    with mpl.rc_context({"svg.fonttype": "none"}):
        out = call("export", folder / "s.db", "--plot", tmp_path / "pictures").output
    assert all(name in out for name in NAMES)
    assert "candidate,seed" not in out
    text = {name: (tmp_path / "pictures" / name).read_text() for name in NAMES[1::2]}
    assert all(member.name in text["bracket.svg"] for member in result.candidates.members)
    assert all(f"{entry.mean:.3f}" in text["grid.svg"] for entry in result.ranking.entries)
    for told in ("MACs of an image", "seconds of a training", "milliseconds of a forward pass", "50% of the schedule"):
        assert told in text["cost.svg"]


def test_what_is_trained_is_told_of_each_rung(finished):  # noqa: F811
    folder, result = finished
    trials = trials_of(Ledger(folder / "s.db", create=False))
    assert trials.shares == (0.5, 1.0)
    assert [len(trained) for trained in trials.trained] == [5, 3]
    last = {name: known.mean for name, (rung, known) in trials.last.items() if rung == 1}
    assert last == pytest.approx({entry.name: entry.mean for entry in result.ranking.entries})


def test_a_search_that_has_just_begun_is_drawn_as_far_as_it_is(tmp_path):
    """One training of one candidate: no deviation, no second rung."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupted)
    trials = trials_of(Ledger(tmp_path / "s.db", create=False))
    assert [next(iter(trained.values())).values for trained in trials.trained] == [(0.5,)]
    assert [path.name for path in save_search(trials, tmp_path / "pictures")] == NAMES


def test_nothing_is_drawn_of_nothing(tmp_path):
    with pytest.raises(SearchError, match="no training is over"):
        trials_of(Ledger(tmp_path / "s.db"))
