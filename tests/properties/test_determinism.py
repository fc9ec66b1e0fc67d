"""The same seed and actions lead to the same bits, however one gets there."""

import multiprocessing
import pickle
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from esper_env.lifecycle.stages import Stage
from tests.conftest import QUICK_TASKS
from tests.properties import recordings
from tests.properties.recordings import STEPS, disturb, make, perform, replay, replay_elsewhere, resume

CASES = [(kind, task) for task in QUICK_TASKS for kind in recordings.KINDS]


@cache
def recorded(kind, task):
    return perform(make(kind, task))


@dataclass
class Part:
    """A stop of a recording: what was taken there, and what goes on from it to the next one."""

    state: dict
    pickled: bytes
    """The environment itself."""
    stages: set
    actions: list
    digests: list


def stops(kind, task):
    """Play a recording once more; yield the environment at each stop, with the step of it and that of the next."""
    env, recording, played = make(kind, task), recorded(kind, task), 0
    env.reset(seed=recordings.SEED)
    for start, end in recording.parts():
        for action in recording.actions[played:start]:
            env.step(action)
        yield env, start, end
        played = start


@cache
def parts(kind, task):
    """A recording in parts."""
    recording, found = recorded(kind, task), []
    for env, start, end in stops(kind, task):
        taken = env.get_state(), pickle.dumps(env), recordings.stages(env)
        found.append(Part(*taken, recording.actions[start:end], recording.part(start, end)))
    return found


@cache
def elsewhere():
    """The recordings replayed and resumed in a spawned process."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    jobs = [
        (kind, task, recorded(kind, task).actions, [(part.state, part.actions) for part in parts(kind, task)])
        for kind, task in CASES
    ]
    process = multiprocessing.get_context("spawn").Process(target=replay_elsewhere, args=(jobs, there))
    process.start()
    there.close()
    found = {case: here.recv() for case in CASES}
    process.join()
    assert process.exitcode == 0
    return found


def all_of(kind, task):
    return recorded(kind, task).whole()


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_states_are_taken_of_seeds_in_every_stage(kind, task):
    assert set().union(*(part.stages for part in parts(kind, task))) == set(Stage) - {Stage.UNKNOWN}
    assert len(set(recorded(kind, task).digests)) == STEPS + 1


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_another_instance_repeats_it_and_so_does_the_same_one_again(kind, task):
    env = make(kind, task)
    assert replay(env, recorded(kind, task).actions) == all_of(kind, task)
    disturb(env)
    assert replay(env, recorded(kind, task).actions) == all_of(kind, task)


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_a_spawned_process_repeats_it(kind, task):
    assert elsewhere()[kind, task][0] == all_of(kind, task)


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_a_spawned_process_goes_on_from_a_saved_state(kind, task):
    assert elsewhere()[kind, task][1] == [part.digests for part in parts(kind, task)]


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_a_fork_goes_on_alike_and_leaves_its_origin_alone(kind, task):
    recording = recorded(kind, task)
    for origin, start, end in stops(kind, task):
        before = recordings.everything(origin)
        assert resume(origin.fork(), recording.actions[start:end]) == recording.part(start, end)
        assert recordings.everything(origin) == before == recording.states[start]


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_a_pickled_state_goes_on_alike_wherever_it_is_set(kind, task):
    env = make(kind, task)
    disturb(env)
    for part in parts(kind, task):
        state = pickle.loads(pickle.dumps(part.state))
        for _ in range(2 if task == "digits" else 1):  # the state is not used up
            env.set_state(state)
            assert resume(env, part.actions) == part.digests


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_a_pickled_environment_goes_on_alike(kind, task):
    for part in parts(kind, task):
        assert resume(pickle.loads(part.pickled), part.actions) == part.digests


@pytest.mark.parametrize("task", QUICK_TASKS)
def test_two_threads_repeat_what_two_threads_did(task):
    actions = recorded("vector", task).actions
    threaded = [make("vector", task, threads=2) for _ in range(2)]
    one, other = (replay(env, actions) for env in threaded)
    assert one == other
    for env in threaded:
        env.close()


def test_two_threads_do_what_one_does_with_the_same_stacks():
    actions = recorded("vector", "digits_deep").actions
    threaded, plain = make("vector", "digits_deep", threads=2), make("vector", "digits_deep", chunk=2)
    assert replay(threaded, actions) == replay(plain, actions)
    threaded.close()


def test_later_episodes_of_a_seeded_environment_repeat_too():
    """What `reset()` without a seed draws belongs to the state as well."""
    for kind in recordings.KINDS:
        env = make(kind, "digits")
        env.reset(seed=3)
        fork = env.fork()
        (one, _), (other, _) = env.reset(), fork.reset()
        np.testing.assert_array_equal(one["features"], other["features"])
        env.reset(seed=3)
        np.testing.assert_array_equal(env.reset()[0]["features"], one["features"])
