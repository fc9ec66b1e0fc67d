from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import LSTMModule, set_recurrent_mode

from esper_agent import EnvSpec, PolicyConfig, create_policy, policy_names, register_policy
from esper_agent.policies.actor_critic import ActorCritic
from esper_agent.policies.baselines import Wait
from esper_agent.policies.distribution import BLUEPRINT, OP, ActionLayout
from esper_agent.policies.networks import PolicyNetwork
from esper_env.actions import ACTION_HEADS, HEAD_NAMES, Op, head_sizes
from esper_env.config import ConfigError
from tests.agent.observations import observations

NAMES = ("lstm", "lstm-v1", "mlp")
SMALL = {"width": 32, "head_width": 16}


def size(policy):
    return sum(p.numel() for p in policy.parameters())


def rollout(policy, batch, steps, starts=(), seed=0):
    """Act step by step, forgetting at the given (row, step); what a collector stores, as `[batch, steps]`."""
    data = observations(batch, steps, seed=seed)
    data["is_init"] = torch.zeros(batch, steps, 1, dtype=torch.bool)
    data["is_init"][:, 0] = True
    for row, step in starts:
        data["is_init"][row, step] = True
    state = policy.initial_state(batch)
    taken = []
    for t in range(steps):
        # As in TorchRL, the stored state of a first step is zero: the primer's reset.
        stored = {key: torch.where(data["is_init"][:, t, :, None], 0.0, state[key]) for key in policy.state_keys}
        step = policy(data[:, t].clone().update(stored))
        state = step["next"] if policy.state_keys else state
        taken.append(step)
    return torch.stack(taken, 1).contiguous()


class Spaces(gym.Env):
    def __init__(self, slots=3, features=112):
        nvec = head_sizes(slots, 13)
        self.action_space = spaces.MultiDiscrete(nvec)
        self.observation_space = spaces.Dict(
            {
                "features": spaces.Box(-10, 10, (features,), np.float32),
                "blueprint_index": spaces.Box(-1, 12, (slots,), np.int64),
                "action_mask": spaces.MultiBinary(sum(nvec)),
                "slot_by_op": spaces.MultiBinary(6 * slots),
            }
        )


@pytest.mark.parametrize(("name", "parameters"), [("lstm", 930_812), ("lstm-v1", 225_698), ("mlp", 470_268)])
def test_parameter_counts_at_three_slots(name, parameters):
    assert size(create_policy(name, EnvSpec())) == parameters


def test_the_parameters_of_lstm_lie_where_the_design_puts_them_besides_the_blueprints_of_more_slots():
    assert size(create_policy("lstm", EnvSpec(), blueprint_by_slot=False)) == 927_458
    network = create_policy("lstm", EnvSpec()).network
    assert size(network.embedding) == 56
    assert sum(p.numel() for p in network.encoder[0].parameters()) == 32_000
    assert size(network.encoder[1]) + size(network.memory.norm) == 1_024
    assert size(network.memory.lstm) == 526_336
    assert sum(size(head) for name, head in network.heads.items() if name != "blueprint") == 233_884
    assert size(network.heads["blueprint"]) == 100_365 + 2 * 13 * (128 + 1)
    assert size(network.critic) == 33_793


def test_five_slots_need_wider_inputs_and_nothing_else():
    spec = EnvSpec.of(Spaces(5, 170))
    policy = create_policy("lstm", spec, width=384)
    assert policy.network.encoder[0].in_features == 190
    td = policy(policy.initial_state(2).update(observations(2, spec=spec)))
    assert td["action"].shape == (2, 8)


@pytest.mark.parametrize("name", NAMES)
def test_policies_write_the_contracts_keys(name):
    policy = create_policy(name, EnvSpec(), seed=0)
    td = policy(policy.initial_state(2, 3).update(observations(2, 3)))
    assert set(policy.in_keys) <= set(td.keys())
    assert td["action"].shape == (2, 3, 8)
    assert td["action"].dtype == torch.int64
    assert td["action_log_prob"].shape == (2, 3, 8)
    assert td["state_action_value"].shape == td["state_value"].shape == (2, 3, 1)
    assert all(not tensor.requires_grad for tensor in td.values(True, True))
    assert set(policy.out_keys) <= set(td.keys(True, True))


def test_a_single_unbatched_observation_is_enough():
    policy = create_policy("lstm", EnvSpec(), seed=0)
    td = policy(policy.initial_state().update(observations(1)[0]))
    assert td["action"].shape == (8,)
    assert td["next", "recurrent_state_h"].shape == (1, 256)


def test_weights_are_initialised_as_designed():
    network = create_policy("lstm", EnvSpec(), seed=3).network
    eye = torch.eye(256)
    first = network.encoder[0].weight
    torch.testing.assert_close(first.T @ first, 2 * torch.eye(124), atol=1e-4, rtol=0)
    for head in network.heads.values():
        *inner, last = (layer.weight for layer in head if isinstance(layer, torch.nn.Linear))
        torch.testing.assert_close(last @ last.T, 1e-4 * torch.eye(len(last)), atol=1e-7, rtol=0)
        for weight in (*inner, network.critic.first.weight):
            torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(len(weight)), atol=1e-4, rtol=0)
    biased = [name for name, value in network.named_parameters() if value.any() and name.endswith(".bias")]
    of_heads = ["heads.alpha_target.2.bias", "heads.op.2.bias"]
    assert [name for name in biased if "norm" not in name and "encoder.1" not in name] == of_heads
    assert network.heads["op"][2].bias.tolist() == [-3, 0, -7, -7, 0, 0]
    assert network.heads["alpha_target"][2].bias.tolist() == [-3, -3, 0]
    assert network.critic.last.weight.norm().item() == pytest.approx(1, abs=1e-5)
    lstm = network.memory.lstm
    for gate in (*lstm.weight_ih_l0.chunk(4), *lstm.weight_hh_l0.chunk(4)):
        torch.testing.assert_close(gate @ gate.T, eye, atol=1e-4, rtol=0)
    biases = (lstm.bias_ih_l0 + lstm.bias_hh_l0).chunk(4)
    assert [b.mean().item() for b in biases] == [0, 1, 0, 0]
    assert network.embedding.weight.std().item() == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize("bias", [{}, {"WAIT": 1.0, "PRUNE": -2.0}])
def test_a_beginner_draws_ops_as_its_bias_says(bias):
    policy = create_policy("mlp", EnvSpec(), seed=0, first_bias={"op": bias})
    obs = observations(64).update({"is_init": torch.ones(64, 1, dtype=torch.bool)})
    legal = obs["action_mask"][:, -len(Op) :].bool()
    expected = legal * torch.tensor([np.exp(bias.get(op.name, 0.0)) for op in Op])
    expected /= expected.sum(-1, keepdim=True)
    drawn = policy.judge(obs).distribution.op_log_probs.exp()
    assert (legal.sum(-1) > 2).any()
    torch.testing.assert_close(drawn, expected.float(), atol=0.02, rtol=0)


@pytest.mark.parametrize("by_slot", [True, False])
def test_a_beginner_draws_the_choices_of_every_head_as_its_bias_says(by_slot):
    bias = {"blueprint": {"attention": -9.0}, "tempo": {"FAST": -9.0}, "alpha_target": {"HALF": -9.0, "SEVENTY": -9.0}}
    bias["op"] = {op.name: -9.0 for op in Op if op is not Op.GERMINATE}
    policy = create_policy("mlp", EnvSpec(), seed=0, first_bias=bias, blueprint_by_slot=by_slot)
    obs = observations(64).update({"is_init": torch.ones(64, 1, dtype=torch.bool)})
    drawn = policy(obs)["action"]
    planted = drawn[drawn[:, -1] == Op.GERMINATE]
    assert len(planted) > 20
    for head, choices in bias.items():
        column, names = next((i, h.choices) for i, h in enumerate(ACTION_HEADS) if h.name == head)
        assert not set(planted[:, column].tolist()) & {names.index(choice) for choice in choices}, head
        assert len(planted[:, column].unique()) > (head in ("blueprint", "tempo")), head


def test_what_is_learned_of_a_blueprint_in_one_slot_moves_the_logits_of_no_other():
    policy = create_policy("mlp", EnvSpec(), seed=0, **SMALL)
    obs = observations(1, 1).update({"is_init": torch.ones(1, 1, 1, dtype=torch.bool)})
    obs["action_mask"][:], obs["slot_by_op"][:] = True, True
    action = torch.tensor([[[1, 4, 0, 0, 0, 0, 0, Op.GERMINATE]]])
    policy.unroll(obs).distribution.log_prob(action)[..., BLUEPRINT].backward()
    rows = policy.network.heads["blueprint"][-1].weight.grad.unflatten(0, (3, 13)).any(-1)
    assert rows.all(1).tolist() == rows.any(1).tolist() == [False, True, False]


def test_an_empty_slot_has_an_embedding_of_its_own():
    network = create_policy("mlp", EnvSpec(), seed=0, **SMALL).network
    obs = observations(2)
    obs["blueprint_index"][:] = torch.tensor([[-1, 0, 5], [0, 0, 5]])
    network(obs["features"], obs["blueprint_index"], torch.ones(2, dtype=torch.bool))[1][0].sum().backward()
    assert network.embedding.weight.grad.any(-1).nonzero().flatten().tolist() == [0, 5, 13]
    assert obs["blueprint_index"][0].tolist() == [-1, 0, 5]


def test_a_seed_decides_weights_and_actions_and_the_global_stream_is_left_alone():
    before = torch.get_rng_state()
    a, b, c = (create_policy("lstm", EnvSpec(), seed=seed, **SMALL) for seed in (1, 1, 2))
    taken = [rollout(policy, 2, 5)["action"] for policy in (a, b, c)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(taken[0], taken[1])
    assert not torch.equal(taken[0], taken[2])


def test_deterministic_mode_takes_the_mode_and_stays_legal():
    policy = create_policy("mlp", EnvSpec(), seed=0, **SMALL)
    td = policy.initial_state(500).update(observations(500))
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = policy(td.clone())["action"]
    assert torch.equal(action, policy.judge(td).distribution.mode())
    op_mask = td["action_mask"][:, -len(Op) :].bool()
    assert op_mask.gather(-1, action[:, OP, None]).all()


def test_the_critic_sees_state_beside_the_one_hot_of_the_op():
    critic = create_policy("lstm", EnvSpec(), seed=0).network.critic
    x = torch.randn(5, 256)
    one_hot = torch.eye(len(Op))
    for op in Op:
        joined = torch.cat([x, one_hot[op].expand(5, -1)], -1)
        torch.testing.assert_close(critic(x)[:, op], critic.last(critic.first(joined).relu()).squeeze(-1))


def test_state_value_is_the_expectation_of_the_op_values():
    policy = create_policy("lstm", EnvSpec(), seed=0, **SMALL)
    judgement = policy.judge(policy.initial_state(20).update(observations(20)))
    expected = (judgement.distribution.op_log_probs.exp() * judgement.values).sum(-1, keepdim=True)
    assert torch.equal(judgement.state_value, expected)


@pytest.mark.parametrize("name", NAMES)
def test_sequences_agree_with_steps_across_resets_inside_the_batch(name):
    policy = create_policy(name, EnvSpec(), seed=0, **SMALL)
    data = rollout(policy, 4, 12, starts=[(0, 5), (1, 5), (1, 6), (3, 11)])
    judgement = policy.unroll(data)
    for tensor, stored in (
        (judgement.distribution.log_prob(data["action"]), data["action_log_prob"]),
        (judgement.action_value(data["action"]), data["state_action_value"]),
        (judgement.state_value, data["state_value"]),
    ):
        torch.testing.assert_close(tensor, stored, atol=1e-5, rtol=0)


def test_a_sequence_may_begin_in_the_middle_of_an_episode():
    policy = create_policy("lstm", EnvSpec(), seed=0, **SMALL)
    data = rollout(policy, 3, 12, starts=[(1, 8)])
    judgement = policy.unroll(data[:, 5:])
    torch.testing.assert_close(
        judgement.distribution.log_prob(data["action"][:, 5:]), data["action_log_prob"][:, 5:], atol=1e-5, rtol=0
    )


def test_a_reset_that_is_overlooked_would_show():
    policy = create_policy("lstm", EnvSpec(), seed=0, **SMALL)
    data = rollout(policy, 4, 12, starts=[(0, 5)])
    data["is_init"][0, 5] = False
    assert not torch.allclose(policy.unroll(data).state_value, data["state_value"], atol=1e-3)


def test_the_lstm_agrees_with_torchrls_module():
    memory = create_policy("lstm", EnvSpec(), seed=0, **SMALL).network.memory
    theirs = LSTMModule(lstm=memory.lstm, in_keys=["x", "h", "c"], out_keys=["y", ("next", "h"), ("next", "c")])
    x, is_init = torch.randn(3, 10, 32), torch.zeros(3, 10, dtype=torch.bool)
    is_init[1, 4] = True
    h, c = (torch.randn(3, 10, 1, 32).masked_fill(is_init[..., None, None], 0.0) for _ in range(2))
    td = TensorDict({"x": x, "h": h, "c": c, "is_init": is_init[..., None]}, (3, 10))
    with set_recurrent_mode(True):
        expected = memory.norm(theirs(td)["y"])
    torch.testing.assert_close(memory.unroll(x, is_init, (h[:, 0], c[:, 0])), expected)


def test_gradients_reach_back_through_time_to_the_first_step_and_not_through_a_reset():
    network = create_policy("lstm", EnvSpec(), seed=0, **SMALL).network
    x = torch.randn(2, 6, 32, requires_grad=True)
    is_init = torch.zeros(2, 6, dtype=torch.bool)
    is_init[1, 3] = True
    state = (torch.zeros(2, 1, 32), torch.zeros(2, 1, 32))
    network.memory.unroll(x, is_init, state)[:, -1].square().sum().backward()
    reached = x.grad.abs().sum(-1) > 0
    assert reached.tolist() == [[True] * 6, [False] * 3 + [True] * 3]


def test_the_lstm_in_python_computes_the_same_from_the_same_weights():
    native, python = (create_policy("lstm", EnvSpec(), seed=0, python_lstm=flag, **SMALL) for flag in (False, True))
    data = rollout(native, 3, 6, starts=[(1, 3)])
    python.load_state_dict(native.state_dict())
    torch.testing.assert_close(python.unroll(data).values, native.unroll(data).values, atol=1e-5, rtol=0)


def test_the_step_compiles_without_a_graph_break():
    network = create_policy("lstm", EnvSpec(), seed=0, python_lstm=True, **SMALL).network
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for n in (2, 5):
        obs = observations(n)
        args = (obs["features"], obs["blueprint_index"], torch.ones(n, dtype=torch.bool))
        state = (torch.zeros(n, 1, 32), torch.zeros(n, 1, 32))
        for got, expected in zip(compiled(*args, *state)[:2], network(*args, *state)[:2], strict=True):
            torch.testing.assert_close(got, expected)


def test_a_compiled_policy_acts_as_an_uncompiled_one_in_batches_of_any_size(monkeypatch):
    # Without the code generator, which needs a C++ compiler and a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain, compiled = (
        create_policy("lstm", EnvSpec(), seed=0, python_lstm=True, compile=flag, **SMALL) for flag in (False, True)
    )
    assert compiled.network._compiled_call_impl is not None
    for envs, steps in ((2, 3), (5, 1)):
        expected, got = (rollout(policy, envs, steps) for policy in (plain, compiled))
        assert torch.equal(got["action"], expected["action"])
        torch.testing.assert_close(got["state_value"], expected["state_value"])


def test_a_compiled_policy_keeps_its_parameter_names():
    plain, compiled = (create_policy("lstm", EnvSpec(), compile=flag, **SMALL) for flag in (False, True))
    assert list(plain.state_dict()) == list(compiled.state_dict())


def test_under_autocast_log_probabilities_values_and_state_are_float32_and_learning_still_works():
    policy = create_policy("lstm", EnvSpec(), seed=0, autocast=True, **SMALL)
    data = rollout(policy, 2, 5)
    for key in ("action_log_prob", "state_action_value", ("next", "recurrent_state_h")):
        assert data[key].dtype == torch.float32
    judgement = policy.unroll(data)
    log_prob = judgement.distribution.log_prob(data["action"])
    assert log_prob.dtype == judgement.values.dtype == torch.float32
    torch.testing.assert_close(log_prob, data["action_log_prob"], atol=2e-2, rtol=0)
    (log_prob.sum() + judgement.values.sum() + judgement.distribution.head_entropy().sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in policy.parameters())


def test_a_missing_recurrent_state_is_an_error_and_not_a_silent_loss_of_memory():
    policy = create_policy("lstm", EnvSpec(), seed=0, **SMALL)
    td = observations(2)
    td["is_init"] = torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises(KeyError, match=r"recurrent_state_h.*make_tensordict_primer"):
        policy(td)


def test_spec_is_read_from_the_spaces():
    assert EnvSpec.of(Spaces()) == EnvSpec(3, 13, 112)
    assert EnvSpec.of(EnvSpec(5, 13, 170)).shapes["action_mask"] == (43,)
    vector = gym.vector.SyncVectorEnv([Spaces, Spaces])
    assert EnvSpec.of(vector) == EnvSpec(3, 13, 112)


def test_an_environment_of_another_kind_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="must be MultiDiscrete with the heads slot, blueprint"):
        EnvSpec.of(gym.make("CartPole-v1"))
    env = Spaces()
    del env.observation_space.spaces["slot_by_op"]
    with pytest.raises(ValueError, match="lacks slot_by_op"):
        EnvSpec.of(env)
    with pytest.raises(TypeError, match="expected a Gymnasium environment or an EnvSpec, got int"):
        EnvSpec.of(3)


def test_misspelt_policies_and_options_get_a_hint():
    with pytest.raises(ConfigError, match="Did you mean 'lstm'"):
        create_policy("lstn", EnvSpec())
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        create_policy("lstm", EnvSpec(), widht=64)
    with pytest.raises(ConfigError, match="below 1/6"):
        create_policy("lstm", EnvSpec(), uniform_mixing={"op": 0.2})
    with pytest.raises(ConfigError, match=r"choice in first_bias\['op'\] 'PRUN'.*Did you mean 'PRUNE'"):
        create_policy("lstm", EnvSpec(), first_bias={"op": {"PRUN": -1.0}})
    with pytest.raises(ConfigError, match="head in first_bias 'PRUNE'"):
        create_policy("lstm", EnvSpec(), first_bias={"PRUNE": -1.0})
    with pytest.raises(ConfigError, match=r"first_bias must be a mapping from names, .* got None"):
        create_policy("lstm", EnvSpec(), first_bias=None)
    with pytest.raises(ConfigError, match=r"first_bias\['op'\] must be a mapping from names, .* got -1.0"):
        create_policy("lstm", EnvSpec(), first_bias={"op": -1.0})
    with pytest.raises(ConfigError, match=r"first_bias\['op'\]\['PRUNE'\] must be a finite number"):
        create_policy("lstm", EnvSpec(), first_bias={"op": {"PRUNE": -np.inf}})
    with pytest.raises(ConfigError, match="Did you mean 'tempo'"):
        create_policy("lstm", EnvSpec(), uniform_mixing={"temp": 0.01})


def test_a_name_with_a_module_imports_it_first(tmp_path, monkeypatch):
    (tmp_path / "of_somebody.py").write_text(
        "from esper_agent import register_policy\n"
        "from esper_agent.policies.baselines import Wait\n"
        "register_policy('patient', Wait)\n"
    )
    (tmp_path / "of_nobody.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = EnvSpec()
    assert isinstance(create_policy("of_somebody:patient", spec), Wait)
    with pytest.raises(ConfigError, match="no module 'of_somebody_else'"):
        create_policy("of_somebody_else:patient", spec)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        create_policy("of_nobody:patient", spec)


def test_a_registered_policy_can_be_created_and_a_name_is_taken_only_once():
    def build(spec, *, generator, **options):
        network = PolicyNetwork(spec, PolicyConfig(memory="none", **options))
        return ActorCritic(ActionLayout(spec.num_slots, spec.num_blueprints), network)

    if "of-a-test" not in policy_names():
        register_policy("of-a-test", build)
    assert isinstance(create_policy("of-a-test", EnvSpec(), width=8), ActorCritic)
    with pytest.raises(ConfigError, match="already registered"):
        register_policy("lstm", build)


@pytest.mark.parametrize("name", ["random", "wait", "schedule", "heuristic"])
def test_policies_that_do_not_learn_are_found_by_name_and_act_legally(name):
    td = observations(300)
    td["is_init"] = torch.ones(300, 1, dtype=torch.bool)
    action = create_policy(name, EnvSpec(), seed=0)(td)["action"]
    layout = ActionLayout(3, 13)
    log_prob = layout(torch.zeros(300, 41), td["action_mask"], td["slot_by_op"]).log_prob(action)
    assert (log_prob > -10).all()


def test_heads_are_named_as_the_action_is():
    network = create_policy("mlp", EnvSpec(), **SMALL).network
    assert tuple(network.heads) == HEAD_NAMES
