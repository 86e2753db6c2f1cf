"""The optimizer of both training scripts."""

from __future__ import annotations

import torch
from torch import nn


class Optimizer:
    """Muon for the blocks' matrices and AdamW for embeddings, biases and norms, as one."""

    def __init__(
        self, model: nn.Module, blocks: nn.Module, rate: float, matrix_rate: float, decay: float
    ) -> None:
        """Share out the model's parameters; `decay` is that of the blocks' matrices."""
        matrices = [p for p in blocks.parameters() if p.dim() == 2]
        chosen = set(map(id, matrices))
        rest = [p for p in model.parameters() if id(p) not in chosen]
        self.parts = [
            torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=decay),
            torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]

    def step(self, share: float) -> None:
        """Take a step at this share of the peak learning rates and clear the gradients."""
        for part in self.parts:
            part.param_groups[0]["lr"] = share * part.defaults["lr"]
            part.step()
            part.zero_grad()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the state by name, `part.parameter.key`."""
        return {
            f"{i}.{j}.{key}": value
            for i, part in enumerate(self.parts)
            for j, state in part.state_dict()["state"].items()
            for key, value in state.items()
        }

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take up a state that `tensors` returned."""
        for i, part in enumerate(self.parts):
            whole = part.state_dict()
            whole["state"] = {}
            for name, value in tensors.items():
                at, j, key = name.split(".")
                if int(at) == i:
                    whole["state"].setdefault(int(j), {})[key] = value
            part.load_state_dict(whole)
