import numpy as np
import pytest

from benchmarks.suite.playing import play
from benchmarks.suite.script import Script
from benchmarks.suite.tuning import GRIDS, SPATIAL, variations
from esper_agent.spec import EnvSpec
from esper_env.actions import HEAD_INDEX, Op, Style, blueprint_names
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from tests.conftest import BRIEF, HASTY

ENV = {"task": "digits", "max_epochs": 30, "training": BRIEF, "lifecycle": HASTY}
SPEC = EnvSpec.of(SeedEnv(**ENV))
OP, SLOT, BLUEPRINT, STYLE, TEMPO = (HEAD_INDEX[name] for name in ("op", "slot", "blueprint", "style", "tempo"))


def acted(**options):
    """The actions of two episodes, which are the same: a script looks at stages alone."""
    played = play(Script(SPEC, **options), ENV, [1, 2], agent="script")
    np.testing.assert_array_equal(*played.actions)
    return played.actions[0], played.episodes[0]


def planted(actions):
    return [(a[SLOT], blueprint_names()[a[BLUEPRINT]]) for a in actions.tolist() if a[OP] == Op.GERMINATE]


def test_every_slot_gets_its_own_blueprint_and_an_empty_name_none():
    actions, episode = acted(blueprints=("depthwise", "", "conv_light"), style="GATED_GATE", tempo=0)
    assert planted(actions) == [(0, "depthwise"), (2, "conv_light")]
    germinated = actions[actions[:, OP] == Op.GERMINATE]
    assert (germinated[:, STYLE] == Style.GATED_GATE).all()
    assert (germinated[:, TEMPO] == 0).all()
    assert (actions[:, OP] == Op.FOSSILIZE).sum() == 2
    assert episode.final_params > 390


def test_with_nothing_to_plant_it_waits():
    actions, _ = acted(blueprints=("",))
    assert (actions[:, OP] == Op.WAIT).all()


@pytest.mark.parametrize("epochs", [3, 7])
def test_a_seed_trains_as_long_as_asked_for(epochs):
    actions, _ = acted(blueprints=("norm", "", ""), training_epochs=epochs)
    began, ended = np.flatnonzero(actions[:, OP] == Op.ADVANCE)[:2]
    assert ended - began == epochs


def test_the_host_is_left_alone_until_the_start():
    actions, _ = acted(blueprints=("norm",), start=4)
    assert np.flatnonzero(actions[:, OP] == Op.GERMINATE)[0] == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blueprints": ("conv_ligt",)}, "Did you mean 'conv_light'"),
        ({"style": "ADD"}, "style"),
        ({"training_epochs": -1}, "training_epochs must be at least 0"),
    ],
)
def test_what_cannot_be_done_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        Script(SPEC, **options)


@pytest.mark.parametrize("slots", [2, 3, 5])
def test_all_settings_of_the_grid_can_be_played(slots):
    grid = GRIDS["schedule"]
    spec = EnvSpec(num_slots=slots, num_features=25 + 29 * slots)
    best = dict(grid.start)
    for stage in grid.stages(slots):
        for settings in variations(best, stage):
            Script(spec, **settings)
        best = settings
    everywhere = [{"blueprints": [name] * slots} for name in SPATIAL]
    first = [dict(v) for v in variations(grid.start, grid.stages(slots)[0])]
    assert all(any(v["blueprints"] == e["blueprints"] for v in first) for e in everywhere)


def test_variations_are_all_combinations_and_leave_the_best_as_it_was():
    best = {"blueprints": ["a", "b"], "tempo": 1}
    found = list(variations(best, [("blueprints.1", ("c", "d")), ("tempo", (0, 2))]))
    assert [(v["blueprints"][1], v["tempo"]) for v in found] == [("c", 0), ("c", 2), ("d", 0), ("d", 2)]
    assert best == {"blueprints": ["a", "b"], "tempo": 1}
