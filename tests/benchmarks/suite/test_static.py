from dataclasses import replace

import numpy as np
import pytest

from benchmarks.suite.playing import play
from benchmarks.suite.script import Script
from benchmarks.suite.static import episodes, matched, read_points, train_static, write_points
from esper_agent.evaluate import Episode
from esper_agent.spec import EnvSpec
from esper_env.env import SeedEnv
from esper_env.tasks import TASKS, find_task
from tests.benchmarks.suite.tiny import ENV, EPOCHS, TINY

DIGITS = {"task": "digits", **ENV}
SEEDS = TINY.held_out_seeds()


@pytest.fixture(scope="module")
def points():
    return train_static(DIGITS, SEEDS, EPOCHS)


def test_it_has_the_parameters_of_a_host_whose_every_slot_is_grown(points):
    grown = play(Script(EnvSpec.of(SeedEnv(**DIGITS))), DIGITS, SEEDS[:2], agent="script").episodes[0]
    assert {point.final_params for point in points} == {grown.final_params}


def test_an_epoch_costs_what_training_and_one_validation_cost_by_formula(points):
    # 1×1 convolutions 1→4→8→16 on 64, 16 and 4 positions, and a linear layer 16→10
    host = 64 * 4 + 16 * 32 + 4 * 128 + 160
    seeds = 9 * (64 * 16 + 16 * 64 + 4 * 256)
    samples, validated = 64, 32
    first = [point for point in points if point.evaluation_seed == SEEDS[0]]
    validation = 2 * (host + seeds) * validated
    assert first[0].flops == 6 * (host + seeds) * samples + 2 * validation  # the untrained network is validated too
    assert np.diff([point.flops for point in first]).tolist() == [first[0].flops - validation] * (EPOCHS - 1)


def test_a_shorter_training_is_the_beginning_of_a_longer_one_whoever_is_trained_beside(points):
    alone = train_static(DIGITS, SEEDS[1:2], 3)
    assert alone == [p for p in points if p.evaluation_seed == SEEDS[1] and p.epoch <= 3]


def test_it_pays_rent_for_everything_all_the_time(points):
    free = train_static(DIGITS | {"reward": {"rent": 0.0}}, SEEDS, EPOCHS)
    for point, without in zip(points, free, strict=True):
        assert without.objective_return - point.objective_return == pytest.approx(point.epoch / EPOCHS)
        assert without.committed_test_accuracy == point.committed_test_accuracy


def test_it_learns_and_beats_the_host_alone_given_the_epochs():
    whole = {"task": "digits", "max_epochs": 12, "training": {"val_samples": 96}}
    big = train_static(whole, SEEDS[:2], 12)
    assert np.mean([p.committed_test_accuracy for p in big if p.epoch == 12]) > 55


def test_an_episode_is_compared_with_the_first_epoch_that_costs_as_much(points):
    rows = episodes(points, "digits", EPOCHS)
    assert [row.env_steps for row in rows] == [EPOCHS] * 3
    curve = [point for point in points if point.evaluation_seed == SEEDS[0]]
    agent = replace(rows[0], agent="lstm", training_seed=4)
    for spent, epoch in ((1.0, 1), (curve[2].flops, 3), (curve[2].flops + 1, 4), (1e18, EPOCHS)):
        (row,) = matched(points, [replace(agent, flops=spent)])
        assert (row.agent, row.training_seed, row.env_steps) == ("big", 4, epoch)
        assert row.committed_test_accuracy == curve[epoch - 1].committed_test_accuracy


def test_a_curve_reads_back_as_the_same_bits(points, tmp_path):
    write_points(tmp_path / "c.csv.gz", points)
    assert read_points(tmp_path / "c.csv.gz") == points


def test_generated_data_is_the_hosts_own():
    shapes = {"task": "shapes", "max_epochs": 2, "training": ENV["training"] | {"batches_per_epoch": 8}}
    big = train_static(shapes, SEEDS, 2)
    assert len({(row.objective_return, row.committed_test_accuracy) for row in big if row.epoch == 2}) > 1
    assert find_task("shapes") is TASKS["shapes"]
    assert all(isinstance(row, Episode) for row in episodes(big, "shapes", 2))
