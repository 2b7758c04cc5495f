"""Projectors: from a medium's vectors to soft tokens and to matching vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Centre a modality's vectors and divide by one number, so that all modalities arrive at the same size.

    One number, not one a dimension: the spectrum of behaviour vectors carries meaning. Statistics come from
    the training catalogue's present rows and are saved with the projector.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, vectors: Tensor, present: Tensor) -> None:
        rows = vectors[present].float()
        if len(rows):
            self.mean.copy_(rows.mean(0))
            self.scale.copy_((rows - self.mean).square().mean().sqrt().clamp_min(1e-6))

    def forward(self, vectors: Tensor, present: Tensor) -> Tensor:
        """[n, F], bool [n] -> [n, F]; rows not present become zero."""
        return (vectors.float() - self.mean) / self.scale * present[:, None]


class Mlp(nn.Module):
    """Dropout, linear, GELU, linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.up = nn.Linear(inputs, hidden)
        self.down = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.down(self.drop(nn.functional.gelu(self.up(self.drop(x)))))
        return hidden


class Projector(nn.Module):
    """Two layers, then normalised so that soft tokens start with the norm of real token embeddings.

    inputs [n, F] -> [n, k, D]. `token_norm` is the mean L2 norm of the base's token embeddings; it stays
    learnable as one number.
    """

    def __init__(self, inputs: int, hidden: int, k: int, model_width: int, token_norm: float, dropout: float) -> None:
        super().__init__()
        self.k, self.model_width = k, model_width
        self.mlp = Mlp(inputs, hidden, k * model_width, dropout)
        self.log_norm = nn.Parameter(torch.tensor(token_norm).log())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(x)
        return self.sized(y.view(len(x), self.k, self.model_width))

    def sized(self, tokens: Tensor) -> Tensor:
        """Vectors [..., D] at the norm of this projector's soft tokens."""
        sized: Tensor = nn.functional.normalize(tokens, dim=-1) * self.log_norm.exp()
        return sized


class Matching(nn.Module):
    """The space where histories meet items: query = linear(hidden state), item = MLP(its vectors).

    queries [R, D] -> [R, E]; items [n, F] -> [n, E]; a query's product with an item vector is a softmax logit.
    """

    def __init__(self, inputs: int, hidden: int, width: int, model_width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(model_width)
        self.query = nn.Linear(model_width, width)
        self.item = Mlp(inputs, hidden, width, dropout)

    def queries(self, hidden: Tensor) -> Tensor:
        q: Tensor = self.query(self.norm(hidden.float()))
        return q / math.sqrt(self.width)

    def items(self, x: Tensor) -> Tensor:
        v: Tensor = self.item(x)
        return v
