"""The grown network to take home: a plain `nn.Module` with the host and its fossilized seeds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper_env.actions import Algorithm
from esper_env.arrays import Bools, Ints
from esper_env.network.blending import correct
from esper_env.network.blueprints import IMPLEMENTATIONS
from esper_env.network.gates import GATES
from esper_env.network.network import StackedNetwork


class GrownNetwork(nn.Module):
    """The committed network of one environment.

    From images `[batch, channels, height, width]` to logits `[batch, classes]`, or from texts `[batch, length]` to
    logits `[batch, length, classes]`.
    """

    def __init__(self, network: StackedNetwork, env: int, fossilized: Bools, algorithm: Ints) -> None:
        super().__init__()
        self.host_shape = network.host
        rows = torch.tensor([env], device=network.device)
        self.host = _parameters(network.trunk.select(rows))
        self.seeds, self.gates = nn.ModuleDict(), nn.ModuleDict()
        self.blueprints: dict[str, str] = {}
        self.algorithms: dict[str, Algorithm] = {}
        for (slot, blueprint), bank in network.banks.items():
            if env in bank.envs and fossilized[slot]:
                row, name = torch.tensor([bank.envs.index(env)], device=network.device), f"slot{slot}"
                self.seeds[name] = _parameters(bank.seeds.select(row))
                self.blueprints[name] = blueprint
                self.algorithms[name] = Algorithm(int(algorithm[slot]))
                if self.algorithms[name] == Algorithm.GATE and bank.gates is not None:
                    self.gates[name] = _parameters(bank.gates.select(row))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of a batch."""
        host = _stacked(self.host)
        x = self.host_shape.embed(host, self.host_shape.receive(inputs))
        for block, slot in enumerate(self.host_shape.slot_of_block):
            x = self.host_shape.block(host, block, x)
            name = f"slot{slot}"
            if name in self.seeds:
                x = x + self._correction(name, x)
            x = self.host_shape.leave(block, x)
        logits = self.host_shape.classify(host, x)[0]
        return logits.view(*inputs.shape[: 2 if inputs.ndim == 2 else 1], -1)

    def _correction(self, name: str, x: Tensor) -> Tensor:
        implementation = IMPLEMENTATIONS[self.blueprints[name], self.host_shape.topology]
        delta = implementation.delta(_stacked(self.seeds[name]), x)
        everywhere = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        multiply = everywhere if self.algorithms[name] == Algorithm.MULTIPLY else None
        if name not in self.gates:
            return correct(delta, x, multiply, None, None)
        openness = GATES[self.host_shape.topology].openness(_stacked(self.gates[name]), x)
        return correct(delta, x, None, everywhere, openness)


def _parameters(tensors: dict[str, Tensor]) -> nn.ParameterDict:
    return nn.ParameterDict(
        {name.replace(".", "/"): nn.Parameter(tensor[0].clone()) for name, tensor in tensors.items()}
    )


def _stacked(parameters: nn.Module) -> dict[str, Tensor]:
    """Parameters under their own names with the leading axis that the stacked layers expect."""
    return {name.replace("/", "."): tensor.unsqueeze(0) for name, tensor in parameters.named_parameters()}
