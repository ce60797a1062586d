"""Logit contribution: how much each head's look at the needles raises the logit of the answer's tokens.

After LOCOS (Gema et al., see the book's references): at the position that predicts an answer token y, head h writes
W_O^h sum_j a_j v_j into the residual stream, where a_j is its attention to key j and v_j the value there. Its direct
effect on the logit of y through the keys of the needles is u_y . W_O^h sum_{j in needles} a_j v_j. As a head may
favour y wherever it looks, the same over spans of equal lengths elsewhere in the prompt is taken off (their average
over draws, see `readout.displaced_spans`).

u_y is the unembedding row of y, taken back along the direct path from the heads to the logits: some families scale what
`o_proj` gives (Granite) or put a norm behind it (Gemma 2 and 3, OLMo 2, GLM-4), and the final norm centres in some
(LayerNorm) and not in others (RMSNorm). What stands on the path is found out by probing the model, so that a family
needs no name: each step is told from its output on a few known vectors. It multiplies each dimension by a weight, after
centring or not, and divides by the length of its input or not; what is none of these has no direct effect that is
linear, and all contributions are NaN. The division behind the attention is the one that the pass made. The final norm's
is left out: it is one factor for all heads of a position, so contributions rank heads and are not logits.

The probe is one forward pass of one token, in which the layers' inputs and the outputs of `o_proj` are the known
vectors, and everything else that writes into the residual stream (the MLP, say) writes nothing.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from retrieval_heads.attention.capture import capture_attention
from retrieval_heads.models.layout import base_model, compute_dtype, head_layout, matrix_of
from retrieval_heads.models.modes import refuse_not_finite


class Contribution:
    """Computes the contributions of all heads of a layer from its attention rows and values.

    `targets` int64 `[batch, n_rows]` are the tokens that the rows predict, `contrast` float `[batch, n_keys]` is 1
    inside the needles less the average mask of the displaced spans. Keys where it is 0 can be left out, here and below.
    """

    def __init__(self, path: DirectPath, targets: torch.Tensor, contrast: torch.Tensor) -> None:
        self.path, self.contrast = path, contrast
        self.directions = None if path.reason else path.directions(targets)  # [batch, n_rows, hidden]

    def __call__(
        self, probabilities: torch.Tensor, value: torch.Tensor, layer: int, whole: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """float32 `[batch, n_heads, n_rows]`, from what a `capture.Reducer` gets for the keys of `contrast`, and as
        `whole` from probabilities and values of all keys."""
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
        if not branch.divides:
            return found
        heads = _outputs(*whole).transpose(1, 2).flatten(2)
        projected = projection.forward(heads.to(compute_dtype(projection)))
        return found / branch.scale(projected.float())[:, None]


def _outputs(probabilities: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """float32 `[batch, n_heads, n_rows, head_dim]`: values summed by probabilities, or by parts of these."""
    batch, n_heads, n_rows, n_keys = probabilities.shape
    grouped = probabilities.reshape(batch, value.shape[1], -1, n_keys)
    return (grouped @ value.float()).view(batch, n_heads, n_rows, -1)


@dataclass(frozen=True)
class Step:
    """A step of the path: `weight x centred(input) / rms(centred(input))`, without what it adds whatever the input."""

    weight: torch.Tensor  # float32 [hidden]
    centres: bool  # whether the input's mean is taken off
    divides: bool  # whether there is a division

    def back(self, directions: torch.Tensor) -> torch.Tensor:
        """From directions `[..., hidden]` behind the step to those before it, without the division."""
        before = directions * self.weight.to(directions.device)
        return before - before.mean(-1, keepdim=True) if self.centres else before

    def scale(self, inputs: torch.Tensor) -> torch.Tensor:
        """What each input `[..., hidden]` is divided by, `[...]`."""
        centred = inputs - inputs.mean(-1, keepdim=True) if self.centres else inputs
        return centred.square().mean(-1).sqrt()


class DirectPath:
    """What stands between the heads of a model, in evaluation mode, and its logits.

    Attributes:
        reason: why there is no linear direct effect; empty where there is one.
        branches: for each layer with heads, the step from the output of `o_proj` to the residual stream.
        final: the step from the residual stream to the unembedding.

    Raises:
        ModelError: weights that are not finite; see `head_layout` and `capture_attention`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.attentions = head_layout(model).attentions
        self.head = base_model(model).get_output_embeddings()
        self.branches, self.final = [], None
        self._unembedding = self.head.weight if type(self.head) is nn.Linear else None
        seen = _probe(model, self.attentions, self.head)
        if all(bool(one.isfinite().all()) for one in seen.values()):
            self.reason = self._explain(seen)
        elif all(bool(one.isfinite().all()) for one in model.parameters()):
            self.reason = "the probe of what stands between the heads and the logits overflows"
        else:
            refuse_not_finite(model, [0], "the direct effect of the heads")

    def directions(self, targets: torch.Tensor) -> torch.Tensor:
        """float32 `[..., hidden]`: what raises the logits of tokens `[...]` in the residual stream after the layers."""
        if self._unembedding is None:
            self._unembedding = matrix_of(self.head)
        return self.final.back(self._unembedding[targets.to(self._unembedding.device)].float())

    def _explain(self, seen: dict[Any, torch.Tensor]) -> str:
        """Find the steps from what the probe has seen; the reason where one of them cannot be found."""
        for layer, attention in enumerate(self.attentions):
            if not _close(seen["heads", layer], seen["read", layer], seen["read", layer]):
                return f"layer {layer}: something stands between the attention and `o_proj`"
            if not _is_linear(attention.o_proj):
                return f"layer {layer}: `o_proj` is not linear"
            self.branches.append(_step(seen["branch", layer]))
            if self.branches[-1] is None:
                return f"layer {layer}: what stands behind `o_proj` is neither a weight nor a norm"
        for name, made in seen.items():
            if name[0] == "other" and not _close(made[-1], made[0], _vectors(made.shape[-1], made.device)[2]):
                return f"decoder layer {name[1]} changes the residual stream that goes through it"
        self.final = _step(seen["final", 0])
        if self.final is None or not _is_linear(self.head):
            return "what stands before the logits is neither a weight nor a norm"
        return ""


def _vectors(size: int, device: torch.device) -> torch.Tensor:
    """float32 `[5, size]`: v and -v of signs that sum to 0, r and 3r with a mean of about 1, and zeros."""
    signs = torch.ones(size)
    signs[1::2] = -1
    uneven = torch.randn(size, generator=torch.Generator().manual_seed(0)) + 1
    return torch.stack([signs, -signs, uneven, 3 * uneven, torch.zeros(size)]).to(device)


def _probe(model: nn.Module, attentions: tuple[nn.Module, ...], head: nn.Module) -> dict[Any, torch.Tensor]:
    """float32 `[5, ...]` by name and layer: the heads as `o_proj` reads them and as the attention gives them, what the
    layer makes of the vectors as outputs of `o_proj`, and what the final step makes of them."""
    seen: dict[Any, torch.Tensor] = {}
    layers, known = list(base_model(model).get_decoder().layers), list(map(id, attentions))

    def leave(place: int, output: Any) -> Any:
        states = output if isinstance(output, torch.Tensor) else output[0]
        vectors, made = _vectors(states.shape[-1], states.device), states[:, 0].float()
        made[-1] -= vectors[2].to(states.dtype).float()
        attention = getattr(layers[place], "self_attn", None)
        seen[("branch", known.index(id(attention))) if id(attention) in known else ("other", place)] = made
        if place + 1 == len(layers):
            states = vectors[:, None].to(states)
        return states if isinstance(output, torch.Tensor) else (states, *output[1:])

    def project(layer: int, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return _vectors(output.shape[-1], output.device)[:, None].to(output)

    def keep(name: tuple[str, int], args: tuple) -> None:
        seen[name] = args[0].flatten(1).float()

    def attended(probabilities: torch.Tensor, value: torch.Tensor, layer: int) -> None:
        seen["heads", layer] = _outputs(probabilities, value).flatten(1)

    with ExitStack() as stack:
        def before(module: nn.Module, function: Any, **how: Any) -> None:
            stack.enter_context(module.register_forward_pre_hook(function, prepend=True, **how))

        def after(module: nn.Module, function: Any) -> None:
            stack.enter_context(module.register_forward_hook(function))

        for place, layer in enumerate(layers):
            before(layer, _entered, with_kwargs=True)
            after(layer, lambda _, args, output, place=place: leave(place, output))
            for part in layer.children():
                if id(part) not in known and any(one.ndim > 1 for one in part.parameters()):
                    after(part, lambda _, args, output: _nothing(output))
        for layer, attention in enumerate(attentions):
            before(attention.o_proj, lambda _, args, layer=layer: keep(("read", layer), args))
            after(attention.o_proj, lambda _, args, output, layer=layer: project(layer, args, output))
        before(head, lambda _, args: keep(("final", 0), args))
        ids = torch.zeros(5, 1, dtype=torch.long, device=next(model.parameters()).device)
        with capture_attention(model, torch.zeros_like(ids), attended):
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
    return seen


def _entered(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A layer's call with zeros in the residual stream, and with r where `o_proj` gives nothing."""
    states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    given = torch.zeros_like(states)
    given[-1:] = _vectors(states.shape[-1], states.device)[2]
    if "hidden_states" in kwargs:
        return args, {**kwargs, "hidden_states": given}
    return (given, *args[1:]), kwargs


def _nothing(output: Any) -> Any:
    return torch.zeros_like(output) if isinstance(output, torch.Tensor) else (torch.zeros_like(output[0]), *output[1:])


def _step(made: torch.Tensor) -> Step | None:
    """The step that makes these outputs `[5, hidden]` of the vectors; None where it is of another kind."""
    vectors = _vectors(made.shape[-1], made.device)
    if made.shape != vectors.shape:  # a model with several residual streams
        return None
    added, weight = (made[0] + made[1]) / 2, (made[0] - made[1]) / 2 * vectors[0]
    if not _close(made[4], added, vectors[2]):
        return None
    for centres in (False, True):
        for divides in (False, True):
            step = Step(weight, centres, divides)
            inputs = vectors[2:4] - vectors[2:4].mean(-1, keepdim=True) if centres else vectors[2:4]
            expected = weight * inputs / (step.scale(vectors[2:4])[:, None] if divides else 1)
            if _close(made[2:4] - added, expected, expected):
                return step
    return None


def _is_linear(module: nn.Module) -> bool:
    """Whether a projection multiplies by its matrix and adds at most a constant, as one with a router does not."""
    if type(module) is nn.Linear:
        return True
    matrix = matrix_of(module)
    given = torch.stack([_vectors(matrix.shape[1], matrix.device)[place] for place in (2, 3, 4)])
    made = module.forward(given[None].to(compute_dtype(module)))[0].float()
    expected = given[:2] @ matrix.T
    return _close(made[:2] - made[2], expected, expected)


def _close(one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether two tensors are equal up to a rounding to 8 bits, which bfloat16 has."""
    return bool((one.float() - other.float()).norm() <= 0.02 * scale.float().norm() + 1e-6)
