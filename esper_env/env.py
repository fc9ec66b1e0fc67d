"""The single environment."""

from __future__ import annotations

from typing import Any, Self

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from torch import nn

from esper_env.actions import as_vectors
from esper_env.arrays import Ints
from esper_env.config import EnvConfig
from esper_env.info import report
from esper_env.options import resolve
from esper_env.render.viewer import FRAMES_PER_SECOND, RENDER_MODES, Viewer
from esper_env.simulation import Simulation
from esper_env.spaces import Observation, action_space, observation_space, observe, split_mask
from esper_env.states import pack, unpack

MAX_SEED = 2**63
_ONE = np.ones(1, bool)


class SeedEnv(gymnasium.Env[Observation, Ints]):
    """An agent grows a neural network while it trains.

    ## Description

    One step is one epoch of training of a small network, the host. The host has slots. The agent plants seeds
    (small modules, each built from one of 13 blueprints) into free slots, lets them train behind the host without
    disturbing it, blends them in with a weight alpha, and makes them permanent or prunes them. An episode is one
    complete training run of `max_epochs` steps; what is not permanent by then is lost.

    A seed lives through these stages: it is GERMINATED, then TRAINING (isolated: the host's values and gradients are
    those it would have without it), BLENDING (alpha ramps up), HOLDING (alpha rests at 1) and FOSSILIZED (part of
    the host). A pruned seed's slot is PRUNED, EMBARGOED and RESETTING before it is DORMANT and free again.

    ## Action Space

    `MultiDiscrete([slots, 13, 4, 3, 3, 4, 5, 6])`: one choice per head.

    | Num | Head | Choices |
    |---|---|---|
    | 0 | slot | the slot |
    | 1 | blueprint | noop, conv_light, attention, norm, depthwise, bottleneck, conv_small, conv_heavy, lora, \
lora_large, mlp_small, mlp, flex_attention |
    | 2 | style | LINEAR_ADD, LINEAR_MULTIPLY, SIGMOID_ADD, GATED_GATE |
    | 3 | tempo | FAST, STANDARD, SLOW (a first ramp of 3, 5, 8 epochs) |
    | 4 | alpha_target | HALF, SEVENTY, FULL (0.5, 0.7, 1.0) |
    | 5 | alpha_speed | INSTANT, FAST, MEDIUM, SLOW (0, 3, 5, 8 epochs) |
    | 6 | alpha_curve | LINEAR, COSINE, SIGMOID_GENTLE, SIGMOID, SIGMOID_SHARP |
    | 7 | op | WAIT, GERMINATE, SET_ALPHA_TARGET, PRUNE, FOSSILIZE, ADVANCE |

    Which heads matter depends on the op; the others are ignored, whatever they hold.

    | Op | Heads that matter | Legal for a slot when |
    |---|---|---|
    | WAIT | none | always |
    | GERMINATE | slot, blueprint, style, tempo, alpha_target | it is DORMANT, there is room for a seed, and the \
blueprint suits the host |
    | SET_ALPHA_TARGET | slot, style, alpha_target, alpha_speed, alpha_curve | BLENDING or HOLDING, alpha at rest |
    | PRUNE | slot, alpha_speed, alpha_curve | GERMINATED to HOLDING, old enough, alpha at rest |
    | FOSSILIZE | slot | HOLDING and measured, alpha at rest |
    | ADVANCE | slot | GERMINATED; TRAINING long enough with healthy gradients; BLENDING with alpha at rest at 1 |

    An illegal action never raises and never changes anything: it runs as WAIT, `info["action_executed"]` is False and
    the feature `last_action_success` is 0. The same holds for values outside the action space.

    ## Observation Space

    A flat `Dict`:

    | Key | Space | Meaning |
    |---|---|---|
    | features | `Box`, 25 + 29 per slot | training signals and the state of every slot; `esper_env.FEATURES` is \
the table of names, formulas and bounds |
    | blueprint_index | `Box(-1, 12, (slots,), int64)` | blueprint in each slot, -1 when empty |
    | action_mask | `MultiBinary(sum(nvec))` | valid choices, head after head; `info["action_mask"]` has it split, \
for `action_space.sample(mask=...)`, and `action_masks()` as bool |
    | slot_by_op | `MultiBinary(6 * slots)` | valid slots for each op, row by row: the joint truth, which \
independent heads can not express |

    ## Rewards

    `info["reward_terms"]` holds the named terms; they add up to the reward exactly. In the default mode, `shaped`:

    | Term | Meaning |
    |---|---|
    | progress | 0.1 · change of the score (validation accuracy) |
    | forfeit | at the last step, the part of the score that fossilized seeds do not carry is lost |
    | rent | blended parameters cost by size and time |
    | shock | changing alpha at once costs more than gradually |
    | op_cost | GERMINATE 0.02, SET_ALPHA_TARGET 0.005, PRUNE 0.005, FOSSILIZE 0.01 |
    | governor | -10 when a lost host had to be rolled back |
    | attribution, stage | shaping: a potential of the whole state, whose discounted sum over an episode is 0 |
    | hindsight | at a fossilization that really helped, credit for what other seeds gave it; weight 0 |

    The first six are the objective, `info["objective_reward"]`: report their undiscounted sum. Other modes are
    `objective`, `simplified`, `sparse` and `minimal`; a dict sets weights, and `register_reward` adds a mode.

    ## Starting State

    A fresh host initialised from the seed, validated but not trained, with every slot DORMANT.

    ## Episode End

    1. Termination: `max_epochs` epochs have been trained. The budget is part of the task and its progress is observed.
    2. Termination: the governor rolled the host back and `on_panic="terminate"`.
    3. Truncation: `max_episode_steps` of `gymnasium.make`, if given.

    ## Information

    Always the same keys, plain numbers or one number per slot:

    | Key | Meaning |
    |---|---|
    | epoch | epochs trained in this episode |
    | train_loss | mean training loss of the epoch, 0 before the first |
    | val_loss | validation loss of the main network |
    | val_accuracy | its validation accuracy in percent |
    | score | what the reward measures, 0 to 100: the accuracy in classification |
    | committed_accuracy | validation accuracy of the host with its fossilized seeds alone |
    | objective_reward | this step's objective terms, whatever the reward mode |
    | test_accuracy | test accuracy of the committed network after the last step, -1 before |
    | host_params | parameters of the host alone |
    | seed_params | parameters of all seeds present |
    | flops | floating-point operations of training and evaluation so far |
    | action_executed | False when the action ran as WAIT because it was illegal |
    | rolled_back | True when the governor restored the host in this step |
    | seeds_created | seeds germinated so far |
    | seeds_fossilized | seeds made permanent so far |
    | contributing_fossilized | fossilized seeds whose removal would cost accuracy |
    | seeds_pruned | seeds pruned so far, by the agent or the governor |
    | shapley | Shapley value of each slot's seed, in points |
    | coalition_score | score with the seeds of some slots alone, one per bit mask; -1 in an epoch that measures none |
    | stage | stage of each slot |
    | alpha | alpha of each slot |
    | reward_terms | the reward by name |
    | action_mask | valid choices of each head, for `action_space.sample(mask=...)` |

    ## Arguments

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("esper_env:Esper-Seed-v0", task="digits", max_epochs=3)
    >>> observation, info = env.reset(seed=1)
    >>> observation["features"].shape, env.action_space.nvec.tolist()
    ((112,), [3, 13, 4, 3, 3, 4, 5, 6])
    >>> action = [0, 1, 2, 1, 2, 0, 0, 1]  # GERMINATE a conv_light in slot 0
    >>> observation, reward, terminated, truncated, info = env.step(action)
    >>> info["action_executed"], info["stage"].tolist(), reward == sum(info["reward_terms"].values())
    (True, [2, 1, 1], True)

    ```

    All arguments are plain data.

    | Argument | Default | Meaning |
    |---|---|---|
    | task | "digits" | a name in `esper_env.TASKS` |
    | num_slots | the task's | slots of the host |
    | max_epochs | the task's | steps of an episode |
    | reward | "shaped" | a mode, or a dict of weights (with `mode`, if not `shaped`) |
    | blueprints | all that suit | names of the blueprints that may be planted |
    | max_seeds | the number of slots | live and fossilized seeds allowed at once |
    | strict_gates | False | ask more of a seed before it may move on |
    | auto_advance | False | ADVANCE happens by itself, and is masked |
    | counterfactual_interval | 1 | coalitions are measured every so many epochs |
    | on_panic | "rollback" | or "terminate" |
    | lifecycle | {} | embargo_epochs, min_prune_age, min_training_epochs, min_fossilize_contribution |
    | training | {} | host_lr, seed_lr, momentum, weight_decay, clip_norm, proximal, batch_size, batches_per_epoch, \
val_samples |
    | data_dir | None | where tasks with data on disk find it; the variable ESPER_DATA_DIR says where when None |
    | download | False | may missing data be fetched? |
    | device | "cpu" | torch device |
    | render_mode | None | "human" shows pictures in a window, or text in the terminal where there is no display; \
"rgb_array" returns pictures (both need Pillow: `pip install 'esper-env[render]'`); "ansi" returns text |

    On one machine the same seed and actions give the same trajectory bit for bit, also after another `reset`, in
    another process, from `fork()` and from `set_state`.

    ## Version History

    * v0: initial version.
    """

    metadata = {"render_modes": [*RENDER_MODES], "render_fps": FRAMES_PER_SECOND}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        self.render_mode = render_mode
        self._viewer = None if render_mode is None else Viewer(render_mode)
        self._options = options
        self.config: EnvConfig
        self.config, task = resolve(options, ("render_mode",))
        self._simulation = Simulation(self.config, task, 1)
        self._blueprints = len(self._simulation.blueprints)
        self.action_space: spaces.MultiDiscrete = action_space(self.config.num_slots, self._blueprints)
        self.observation_space: spaces.Space[Any] = observation_space(self.config.num_slots, self._blueprints)
        self._running = False
        self._begun = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Build a fresh host from the seed and validate it untrained; `options` are not used."""
        super().reset(seed=seed)
        episode = int(self.np_random.integers(MAX_SEED)) if seed is None else seed
        self._simulation.reset(_ONE, [episode])
        self._running = self._begun = True
        if self._viewer is not None:
            self._viewer.begin(self._simulation)
        return self._observe()

    def step(self, action: Ints) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out an action and train one epoch; an illegal action runs as WAIT."""
        if not self._running:
            problem = "The episode is over" if self._begun else "No episode has begun"
            raise ResetNeeded(f"{problem}: call reset() before step().")
        vectors = as_vectors(action)
        outcome = self._simulation.step(vectors)
        self._running = not outcome.terminated[0]
        if self._viewer is not None:
            self._viewer.follow(self._simulation, vectors[0].tolist())
        observation, info = self._observe()
        return observation, float(outcome.reward[0]), bool(outcome.terminated[0]), False, info

    def _observe(self) -> tuple[Observation, dict[str, Any]]:
        observation = {name: array[0] for name, array in observe(self._simulation).items()}
        info: dict[str, Any] = {
            name: array[0] if array.ndim > 1 else array.item() for name, array in report(self._simulation).items()
        }
        info["reward_terms"] = {name: term.item() for name, term in self._simulation.terms.items()}
        info["action_mask"] = split_mask(observation["action_mask"], self.config.num_slots, self._blueprints)
        return observation, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """The mask of the present state, flat over heads, as sb3-contrib's MaskablePPO asks for it."""
        return np.asarray(self._simulation.masks().heads[0])

    def render(self) -> Any:
        """The episode so far as text or as a picture, by the render mode; `human` shows every epoch by itself."""
        if self._viewer is None:
            gymnasium.logger.warn("render() shows nothing without a render mode: give render_mode to gymnasium.make.")
            return None
        if not self._begun:
            raise ResetNeeded("There is nothing to see yet: call reset() before render().")
        return self._viewer.render()

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._viewer is not None:
            self._viewer.close()

    # States

    _EVOLVING = ("_running", "_begun", "_np_random", "_np_random_seed")

    def _shell(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._EVOLVING}

    def get_state(self) -> dict[str, Any]:
        """Everything that evolves, as an independent, picklable copy."""
        state = pack(self._simulation, self._shell())
        return state if self._viewer is None else state | {"frame": self._viewer.frame}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state; one that is foreign, older or of another configuration is refused."""
        for name, value in unpack(self._simulation, self._shell(), state).items():
            setattr(self, name, value)
        if self._viewer is not None:
            self._viewer.take_over(self._simulation, state.get("frame"))

    def fork(self) -> Self:
        """An independent environment in the same state. It renders alike, but opens no second window."""
        twin = type(self)(render_mode=None if self.render_mode == "human" else self.render_mode, **self._options)
        twin.spec = self.spec
        twin.set_state(self.get_state())
        return twin

    def __getstate__(self) -> dict[str, Any]:
        kept = {"spec": self.spec, "action_space": self.action_space}
        options = self._options | {"render_mode": self.render_mode}
        return {"options": options, "kept": kept, "state": self.get_state()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(**saved["options"])  # type: ignore[misc]
        self.__dict__.update(saved["kept"])
        self.set_state(saved["state"])

    def export_host(self) -> nn.Module:
        """The grown committed network (the host and its fossilized seeds) as an independent module."""
        if not self._begun:
            raise ResetNeeded("There is no host yet: call reset() before export_host().")
        return self._simulation.export_host(0)
