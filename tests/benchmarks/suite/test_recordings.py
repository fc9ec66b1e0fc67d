import gzip

import numpy as np
import pytest

from benchmarks.suite.recordings import (
    decode,
    encode,
    read_actions,
    write_actions,
    write_episodes,
)
from esper_agent.evaluate import Episode, read_episodes
from esper_env.config import ConfigError

HEADER = (
    "agent,task,training_seed,evaluation_seed,objective_return,shaped_return,committed_test_accuracy,final_params,"
    "flops,env_steps"
)


def episode(training=-1, evaluation=1_000_000, value=0.1 + 0.2):
    return Episode("mine", "digits", training, evaluation, value, value / 3, 97.5, 1_234, 1.5e9, 50)


def test_results_have_the_columns_that_were_agreed_and_read_back_as_the_same_bits(tmp_path):
    rows = [episode(1, 1_000_001), episode(0, 1_000_000), episode(1, 1_000_000, -1e-17)]
    write_episodes(tmp_path / "digits.csv", rows)
    assert (tmp_path / "digits.csv").read_text().splitlines()[0] == HEADER
    assert read_episodes(tmp_path / "digits.csv") == [rows[1], rows[2], rows[0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER.replace("flops,", ""), "has the columns"),
        (f"{HEADER}\nmine,digits,0,1000000,high,0,0,0,0,50", "line 2: objective_return is 'high', not float"),
        (f"{HEADER}\nmine,digits,0.5,1000000,1,0,0,0,0,50", "line 2: training_seed is '0.5', not int"),
        (f"{HEADER}\nmine,digits,0", "line 2: evaluation_seed is None, not int"),
    ],
)
def test_another_schema_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "digits.csv").write_text(text + "\n")
    with pytest.raises(ConfigError, match=message):
        read_episodes(tmp_path / "digits.csv")


def test_actions_are_words_of_eight_digits_and_come_back(tmp_path):
    actions = np.array([[2, 12, 3, 2, 2, 3, 4, 5], [0, 0, 2, 1, 2, 0, 0, 0]])
    assert encode(actions) == "2c322345 00212000"
    np.testing.assert_array_equal(decode(encode(actions)), actions)
    write_actions(tmp_path / "a.csv.gz", {(1, 5): actions, (0, 7): actions[:1]})
    found = read_actions(tmp_path / "a.csv.gz")
    assert list(found) == [(0, 7), (1, 5)]
    np.testing.assert_array_equal(found[1, 5], actions)
    written = (tmp_path / "a.csv.gz").read_bytes()
    write_actions(tmp_path / "a.csv.gz", found)
    assert (tmp_path / "a.csv.gz").read_bytes() == written


def test_what_is_no_action_is_refused(tmp_path):
    for word in ("0021200", "0021200!", "002120000"):
        with pytest.raises(ConfigError, match="is no action"):
            decode(word)
    with pytest.raises(ValueError, match="between 0 and 35"):
        encode(np.full((1, 8), 36))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"seed,actions\n"))
    with pytest.raises(ConfigError, match="has the columns"):
        read_actions(tmp_path / "a.csv.gz")
    (tmp_path / "a.csv.gz").write_bytes(b"plain")
    with pytest.raises(ConfigError, match="no compressed table"):
        read_actions(tmp_path / "a.csv.gz")
