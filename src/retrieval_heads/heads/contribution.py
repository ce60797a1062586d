"""Logit contribution: how much each head's look at the needles raises the logit of the answer's tokens.

After LOCOS (Gema et al., see the book's references): at the position that predicts an answer token y, head h writes
W_O^h sum_j a_j v_j into the residual stream, where a_j is its attention to key j and v_j the value there. Its direct
effect on the logit of y through the keys of the needles is u_y . W_O^h sum_{j in needles} a_j v_j. As a head may
favour y wherever it looks, the same over spans of equal lengths elsewhere in the prompt is taken off (their average
over draws, see `measure.displaced_spans`).

u_y is the unembedding row of y, taken back through the final norm: times its weight, and centred where it centres. The
norm's division by the length of the residual stream is left out: it is one factor for all heads of a position, so
contributions rank heads and are no logits. Where a norm stands behind the attention, its weight and centring are in
u_y too, and its division is the one that the pass made. `direct_path` finds these steps, or says why there are none
that are linear; all contributions are NaN then.
"""

from __future__ import annotations

import torch
from torch import nn

from retrieval_heads.heads.direct_path import DirectPath
from retrieval_heads.models.layout import compute_dtype, matrix_of


class Contribution:
    """Computes the contributions of all heads of a layer from its attention rows and values.

    Args:
        path: from the heads of the model to its logits.
        targets: int64 `[batch, n_rows]`, the token that each row predicts.
        contrast: float `[batch, n_keys]`, 1 inside the needles less the average mask of the displaced spans. Keys
            where it is 0 can be left out, here and in what is called.
    """

    def __init__(self, path: DirectPath, targets: torch.Tensor, contrast: torch.Tensor) -> None:
        self.path, self.contrast = path, contrast
        self.directions = None if path.reason else path.directions(targets)  # [batch, n_rows, hidden]

    def __call__(
        self, probabilities: torch.Tensor, value: torch.Tensor, layer: int, whole: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """float32 `[batch, n_heads, n_rows]`.

        Args:
            probabilities, value, layer: as of `capture.ValueReducer`, of the keys of `contrast`.
            whole: probabilities and values of all keys.
        """
        batch, n_heads, n_rows, _ = probabilities.shape
        if self.path.reason:
            return probabilities.new_full((batch, n_heads, n_rows), torch.nan)
        contrast = self.contrast[:, None, None].to(probabilities.device, torch.float32)
        written = _outputs(probabilities * contrast, value)
        projection, branch = self.path.attentions[layer].o_proj, self.path.branches[layer]
        weight = matrix_of(projection)
        directions = branch.back(self.directions.to(weight.device))
        wanted = (directions @ weight).view(batch, n_rows, n_heads, -1)  # over the heads, side by side
        found = (written * wanted.transpose(1, 2)).sum(-1)
        return found / self._divisor(projection, layer, whole)[:, None] if branch.divides else found

    def _divisor(self, projection: nn.Module, layer: int, whole: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """`[batch, n_rows]`: what the norm behind the projection divides by, given all heads and keys."""
        heads = _outputs(*whole).transpose(1, 2).flatten(2)
        projected = projection.forward(heads.to(compute_dtype(projection)))
        return self.path.branches[layer].scale(projected.float())


def _outputs(probabilities: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """float32 `[batch, n_heads, n_rows, head_dim]`: values summed by probabilities, or by parts of these."""
    batch, n_heads, n_rows, n_keys = probabilities.shape
    grouped = probabilities.reshape(batch, value.shape[1], -1, n_keys)
    return (grouped @ value.float()).view(batch, n_heads, n_rows, -1)
