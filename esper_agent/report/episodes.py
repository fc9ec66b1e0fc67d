"""The list of episodes: held-out ones, and the latest of the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from esper_agent.recording import Recording
from esper_agent.report.fates import plantings_of_account, plantings_of_recording, told
from esper_agent.report.tables import scrolling

COLUMNS = {"policy": "text", "episode": "number", "return": "number", "test accuracy": "number", "seeds": "text"}
"""Columns, and what they are sorted as."""


@dataclass(frozen=True)
class Listed:
    """An episode as the list tells it."""

    policy: str
    episode: str
    number: int
    objective_return: float
    test_accuracy: float
    """Below 0 where the episode was cut short."""
    seeds: str
    replay: int | None = None
    """Number of its replay, if it has one."""


def held_out(recordings: Iterable[Recording], replays: Sequence[Recording]) -> list[Listed]:
    """Evaluated episodes, of which some have a replay."""
    number = {id(recording): i for i, recording in enumerate(replays)}
    return [
        Listed(
            policy=recording.agent,
            episode=f"held-out seed {recording.seed}",
            number=recording.seed or 0,
            objective_return=recording.objective_return,
            test_accuracy=float(recording.states["test_accuracy"][-1]),
            seeds=told(plantings_of_recording(recording)),
            replay=number.get(id(recording)),
        )
        for recording in recordings
    ]


def trained_on(
    accounts: Sequence[Mapping[str, Any]], policy: str, replays: Mapping[int, int] | None = None
) -> list[Listed]:
    """Episodes of the training; `replays` has the number of the replay of those that have one, by their place."""
    return [
        Listed(
            policy=policy,
            episode=f"update {account['update']}, host {account['env']}",
            number=account["update"],
            objective_return=account["objective_return"],
            test_accuracy=account["committed_test_accuracy"],
            seeds=told(plantings_of_account(account)),
            replay=(replays or {}).get(place),
        )
        for place, account in enumerate(accounts)
    ]


def episodes_table(episodes: Sequence[Listed]) -> str:
    """The list, with what the page's script needs to filter and sort it."""
    head = "".join(f'<th scope="col" data-kind="{kind}">{name}</th>' for name, kind in COLUMNS.items())
    head += '<th scope="col">replay</th>'
    rows = "".join(_row(episode) for episode in episodes)
    return scrolling(
        "Episodes",
        f'<table id="episodes"><caption class="unseen">Episodes</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>",
        "long",
    )


def _row(episode: Listed) -> str:
    button = ""
    if episode.replay is not None:  # hidden from browsers without scripts
        button = f'<button type="button" data-replay="{episode.replay}" hidden>Watch</button>'
    return (
        f'<tr><th scope="row">{escape(episode.policy)}</th>'
        f'<td data-value="{episode.number}">{escape(episode.episode)}</td>'
        f"<td>{episode.objective_return:.2f}</td>{_accuracy(episode.test_accuracy)}"
        f"<td>{escape(episode.seeds) or 'none'}</td><td>{button}</td></tr>"
    )


def _accuracy(value: float) -> str:
    """The cell of a test accuracy, which an episode that was cut short has none of."""
    return f'<td data-value="{value}">–</td>' if value < 0 else f"<td>{value:.1f}</td>"


def policies(episodes: Sequence[Listed]) -> str:
    """The policies of the list as choices of a filter."""
    names = dict.fromkeys(episode.policy for episode in episodes)
    return "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in names)
