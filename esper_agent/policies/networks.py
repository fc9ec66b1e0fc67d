"""The policy network: encoder, memory, action heads and critic, on plain tensors."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrl import modules as torchrl_modules

from esper_agent.config import PolicyConfig, indexed
from esper_agent.learning.normalizers import ObservationNormalizer
from esper_agent.spec import EnvSpec
from esper_env.actions import HEAD_NAMES, Op

EMBEDDING_SIZE = 4

State = tuple[Tensor, ...]
"""What a memory carries from step to step, each `[n, layers, units]`; empty without memory."""


class LSTMMemory(nn.Module):
    """An LSTM that forgets at the start of an episode."""

    def __init__(self, width: int, *, python: bool = False) -> None:
        super().__init__()
        self.lstm = (torchrl_modules.LSTM if python else nn.LSTM)(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.state_shapes: dict[str, tuple[int, ...]] = {
            "recurrent_state_h": (1, width),
            "recurrent_state_c": (1, width),
        }

    def step(self, x: Tensor, is_init: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of `[n, width]`."""
        out, state = self._run(x.unsqueeze(1), is_init, state)
        return self.norm(out.squeeze(1)), state

    def unroll(self, x: Tensor, is_init: Tensor, state: State) -> Tensor:
        """A sequence of `[n, time, width]`, cut wherever any of the rows begins an episode.

        Rollouts of whole episodes have no cut at all, and every row is exact whatever the cuts.
        """
        cuts = is_init[:, 1:].any(0).nonzero().flatten() + 1
        parts = []
        for start, stop in pairwise([0, *cuts.tolist(), x.shape[1]]):
            part, state = self._run(x[:, start:stop], is_init[:, start], state)
            parts.append(part)
        return cast(Tensor, self.norm(torch.cat(parts, 1)))

    def _run(self, x: Tensor, is_init: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = (torch.where(is_init[:, None, None], 0.0, s).transpose(0, 1).contiguous() for s in state)
        out, state = self.lstm(x, (h, c))
        return out, tuple(s.transpose(0, 1) for s in state)


class NoMemory(nn.Module):
    """A linear layer in the LSTM's place: the ablation that sees the present observation only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.state_shapes: dict[str, tuple[int, ...]] = {}

    def step(self, x: Tensor, is_init: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of `[n, width]`."""
        return self.norm(self.layer(x).relu()), state

    def unroll(self, x: Tensor, is_init: Tensor, state: State) -> Tensor:
        """A sequence of `[n, time, width]`, each step on its own."""
        return self.step(x, is_init, state)[0]


class OpCritic(nn.Module):
    """Q(s, op) for every op at once.

    The network's input is the state beside the one-hot of the op. A one-hot only picks a column of the first
    layer, so the state's share is computed once for all ops.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(width + len(Op), hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., width]` to `[..., ops]`."""
        of_state, of_op = self.first.weight[:, : -len(Op)], self.first.weight[:, -len(Op) :]
        hidden = F.linear(x, of_state, self.first.bias).unsqueeze(-2) + of_op.T
        return cast(Tensor, self.last(hidden.relu())).squeeze(-1)


class PolicyNetwork(nn.Module):
    """Observation and memory in; flat logits `[..., choices]`, values and memory out.

    With `blueprint_by_slot` those of the blueprint are 0, and the logits end in `slots * blueprints` more: what each
    slot adds to them, which is all there is.
    Values are Q(s, op) `[..., ops]`, or V(s) `[..., 1]` with the critic `state`. Calling the network is one step,
    and that is what `compile` compiles; `unroll` evaluates whole sequences for learning.
    """

    def __init__(self, spec: EnvSpec, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.width, config.head_width
        self.normalizer = ObservationNormalizer(spec.num_features) if config.normalize_observations else None
        self.embedding = nn.Embedding(spec.num_blueprints + 1, EMBEDDING_SIZE)
        self.encoder = nn.Sequential(
            nn.Linear(spec.num_features + EMBEDDING_SIZE * spec.num_slots, width), nn.LayerNorm(width), nn.ReLU()
        )
        python = config.python_lstm or config.compile
        self.memory = LSTMMemory(width, python=python) if config.memory == "lstm" else NoMemory(width)
        self.heads = nn.ModuleDict()
        self.head_sizes = dict(zip(HEAD_NAMES, spec.head_sizes, strict=True))
        for name, size in self.head_sizes.items():
            wide = config.blueprint_layers - 2 if name == "blueprint" else 0
            rows = spec.num_slots if name == "blueprint" and config.blueprint_by_slot else 1
            self.heads[name] = _perceptron([width] * (1 + wide) + [hidden, size * rows])
        self.judges_ops = config.critic == "op"
        self.critic: nn.Module = OpCritic(width, hidden) if self.judges_ops else _perceptron([width, hidden, 1])

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the memory's tensors, without batch dimensions."""
        return self.memory.state_shapes

    def forward(
        self, features: Tensor, blueprint_index: Tensor, is_init: Tensor, *state: Tensor
    ) -> tuple[Tensor, Tensor, State]:
        """One step of `n` environments."""
        x, state = self.memory.step(self._encode(features, blueprint_index), is_init, state)
        return *self._read(x), state

    def unroll(
        self, features: Tensor, blueprint_index: Tensor, is_init: Tensor, *state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sequences `[n, time, ...]` from the state `[n, ...]` before their first step."""
        return self._read(self.memory.unroll(self._encode(features, blueprint_index), is_init, state))

    def _encode(self, features: Tensor, blueprint_index: Tensor) -> Tensor:
        if self.normalizer is not None:
            features = self.normalizer(features)
        empty = self.embedding.num_embeddings - 1
        blueprints = self.embedding(torch.where(blueprint_index < 0, empty, blueprint_index))
        return cast(Tensor, self.encoder(torch.cat([features, blueprints.flatten(-2)], -1)))

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs = {name: head(x) for name, head in self.heads.items()}
        if self.config.blueprint_by_slot:
            by_slot = outputs["blueprint"]
            outputs["blueprint"] = by_slot.new_zeros(*by_slot.shape[:-1], self.head_sizes["blueprint"])
            outputs["by slot"] = by_slot
        return torch.cat(list(outputs.values()), -1), self.critic(x)


def _perceptron(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def initialise(network: PolicyNetwork, generator: torch.Generator) -> None:
    """Orthogonal weights; action heads nearly uniform, but for the choices of `first_bias`."""
    last_layers = {_linears(head)[-1]: 0.01 for head in network.heads.values()}
    last_layers[_linears(network.critic)[-1]] = 1.0
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, last_layers.get(module, 2**0.5), generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
        elif isinstance(module, nn.RNNBase):
            _initialise_lstm(module, generator)
    for head, choice, bias in indexed(network.config.first_bias):
        _linears(network.heads[head])[-1].bias.view(-1, network.head_sizes[head])[:, choice] = bias


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def _initialise_lstm(lstm: nn.RNNBase, generator: torch.Generator) -> None:
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight"):
            for gate in parameter.chunk(4):
                nn.init.orthogonal_(gate, generator=generator)
        else:
            nn.init.zeros_(parameter)
    # Gates are stacked input, forget, cell, output; two bias vectors add up, so that one of them holds the 1.
    lstm.get_parameter("bias_ih_l0").chunk(4)[1].fill_(1.0)
