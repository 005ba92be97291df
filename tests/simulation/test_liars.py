"""Every deliberate fault is caught, and by the law that it breaks."""

from __future__ import annotations

import attrs
import pytest

from perdure.runtime.simulation import Faults, laws, simulate

SEEDS = 300


@attrs.frozen
class Case:
    """A liar, the laws any of which may catch it, and where it can be met."""

    name: str
    laws: tuple[str, ...]
    url: str = "file:"
    faults: Faults = attrs.field(factory=Faults)
    first: int = 0
    """The seed to begin with, where few meet it: a little before the first that did."""


LOST = (laws.ACKNOWLEDGED, laws.UNCHANGED, laws.SOUND)
CASES = [
    Case("acknowledges_before_the_flush", LOST),
    Case("never_flushes", LOST),
    Case("syncs_no_folder", LOST),
    Case("syncs_its_folder_at_creation_only", LOST),
    Case("flushes_again_after_a_failure", LOST, faults=Faults.only("flush", "power"), first=150),
    Case("renames_before_it_flushes", LOST),
    Case("believes_its_cache_when_it_opens", LOST, faults=Faults.only("flush", "power", "crash"), first=130),
    Case("resolves_doubt_from_the_old_segment", LOST, faults=Faults.only("flush", "power", "crash")),
    Case("forgets_the_last_batch_when_it_opens", LOST),
    Case("believes_torn_batches", (laws.SOUND, laws.UNCHANGED, laws.CLEAR, laws.ONCE), faults=Faults.only("power"), first=120),
    Case("cuts_the_log_before_the_map_has_it", LOST, url="segments:"),
    Case("shows_before_it_flushes", (laws.UNCHANGED,)),
    Case("lets_go_of_what_it_has_taken", (laws.ABSENT,)),
    Case("takes_doubt_for_absence", (laws.ONCE,), faults=Faults.only("flush")),
    Case("answers_every_doubt_with_yes", (laws.ACKNOWLEDGED, laws.KV, laws.ORDER), faults=Faults.only("flush")),
    Case("looks_at_no_expectation", (laws.ONCE,)),
    Case("sleeps_between_look_and_wait", (laws.REACHED, laws.ENDS), first=40),
    Case("trusts_the_wake_up", (laws.FOLLOWED, laws.MODELS, laws.REACHED)),
    Case("keeps_the_checkpoint_apart_from_the_state", (laws.MODELS,)),
    Case("folds_the_last_page_again_after_a_restart", (laws.MODELS,)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_liar_is_caught(case, load, monkeypatch):
    app, liars = load("tests/simulation/app.py"), load("tests/simulation/simulated_liars.py")
    getattr(liars, case.name)(monkeypatch)

    report = simulate(app.APP, seeds=range(case.first, case.first + SEEDS), url=case.url, faults=case.faults, shrink_tries=0)

    assert report.failed is not None
    assert report.failed.violations[0].law in case.laws, report


def test_every_liar_is_tried(load):
    liars = load("tests/simulation/simulated_liars.py")
    made_there = {name for name, value in vars(liars).items() if getattr(value, "__module__", "") == liars.__name__}
    assert {name for name in made_there if not name.startswith("_")} == {case.name for case in CASES}
