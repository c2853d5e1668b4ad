"""What each kind of attention is: one small class a kind, one table, and nowhere else.

To add a kind, write a class, add a line to `ATTENTION_KINDS`, and a test. Shapes: B images, H
heads, N queries, M keys, d channels per head, C = H·d.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from timm.layers import Attention
from timm.models.cait import ClassAttn
from timm.models.xcit import XCA
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sima_core.attention.modules import PlainAttention, SimAClassAttention, SimAttention
from sima_core.attention.operation import CLASS_NORM_FLOOR, NORM_FLOOR, l1_normalize
from sima_core.errors import InputError
from sima_core.models.cvt import ConvAttention, SimAConvAttention

#: Takes Q (B, N, C) and K (B, M, C), heads side by side.
Record = Callable[[Tensor, Tensor], None]
#: Which patches stay, bool (rows·cols,).
Kept = Tensor


class AttentionKind:
    """One kind of attention; its instances hold nothing, so one serves all layers of the kind."""

    #: The layers that are of this kind; in the table, a subclass comes before its base.
    module: ClassVar[type[nn.Module]]
    #: "SimA", "softmax", "XCA" or "plain QKᵀV".
    name: ClassVar[str]
    #: Whether every token asks; in class attention only the class token does.
    over_patches: ClassVar[bool] = True
    #: The least ℓ1-norm that channels of Q and K are divided by; None where they are not.
    norm_floor: ClassVar[float | None] = None
    #: Whether attention is a plain product, which may be taken in either order.
    has_two_orders: ClassVar[bool] = False
    #: Whether token attends to token, so that there is a weight for each pair.
    has_token_weights: ClassVar[bool] = True
    #: Whether layers of this kind can be rolled out: weights that are shares, over the same tokens.
    rolls_out: ClassVar[bool] = False
    #: Steps on the queries' grid from one key to the next.
    key_stride: ClassVar[int] = 1

    @property
    def normalizes(self) -> bool:
        """Whether Q and K become Q̂ and K̂ before they are multiplied."""
        return self.norm_floor is not None

    def sources(self, layer: Any) -> tuple[nn.Module, ...]:
        """The module that gives Q, K and V in one, or the two that give Q, and then K."""
        return (layer.qkv,)

    def projections(self, layer: Any) -> tuple[nn.Module, ...]:
        """The modules whose outputs the layer's `product` takes."""
        return (layer.qkv,)

    def value_source(self, layer: Any) -> nn.Module:
        """The module whose output ends with V."""
        module: nn.Module = layer.qkv
        return module

    def watch(self, layer: nn.Module, record: Record) -> list[RemovableHandle]:
        """Call `record` whenever this thread has run `layer`; the caller removes the hooks.

        Q and K are what the projections give, bias included; after q_norm and k_norm where the
        layer has them, and before every other normalisation or scale: SimA's ℓ1-norms, XCA's
        ℓ2-norms, the scale of softmax. In class attention Q may have the class token only (N = 1).
        """
        sources = self.sources(layer)
        if len(sources) == 1:

            def split(qkv: Tensor) -> None:
                query, key, _ = qkv.detach().chunk(3, dim=-1)
                record(query, key)

            return [on_output(sources[0], split)]

        seen: dict[str, Tensor] = {}

        def keep_query(query: Tensor) -> None:
            seen["query"] = side_by_side(query.detach())

        def give_both(key: Tensor) -> None:
            record(seen.pop("query"), side_by_side(key.detach()))

        query, key = sources
        return [on_output(query, keep_query), on_output(key, give_both)]

    def normalized(self, tokens: Tensor) -> Tensor:
        """Q̂ of Q, or K̂ of K, where the kind has them: (B, N, C) alike, float32."""
        tokens = tokens.float()
        return tokens if self.norm_floor is None else l1_normalize(tokens, self.norm_floor)

    def scale(self, layer: Any) -> float:
        """What Q is multiplied by before `weights` are taken."""
        return 1.0

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention weights: (..., N, d) and (..., M, d) to (..., N, M).

        Args:
            query: `normalized` Q times the `scale`.
            key: `normalized` K.
        """
        return query @ key.transpose(-2, -1)

    def column_weights(self, query: Tensor, key: Tensor, totals: Tensor | None) -> Tensor:
        """Every query's weights for a few keys, as `weights` gives them for all keys.

        Args:
            totals: what `row_totals` gives for all keys.
        """
        return query @ key.transpose(-2, -1)

    def row_totals(self, query: Tensor, key: Tensor) -> Tensor | None:
        """What couples a row's weights, (..., N, 1); None where nothing does."""
        return None

    def thin(self, layer: Any, queries: Kept, keys: Kept) -> list[RemovableHandle]:
        """Have `layer` run as if only some patches were there; the caller removes the hooks.

        The others neither speak nor listen: they count in no norm and no sum, and get zeros.

        Args:
            queries: true for the patches that stay, and `keys` likewise, of the keys' grid.
        """
        hooks = [on_input(layer, lambda x: x[:, _rows(x, keys)])]
        if self.over_patches:
            hooks.append(on_output(layer, lambda x: _scattered(x, queries)))
        return hooks

    def sums_over_tokens(self, layer: Any) -> bool:
        """Whether what the layer gives is a sum of one part a token, so that it has a flow."""
        try:
            self.projection(layer)
        except InputError:
            return False
        return True

    def projection(self, layer: Any) -> nn.Linear:
        """The linear layer that what the heads gave goes through, and nothing before it.

        Raises:
            InputError: the kind has no weights between tokens, or something that is not linear
                stands between them and the projection.
        """
        found: nn.Linear = layer.proj
        return found


class SimA(AttentionKind):
    """Q̂K̂ᵀV, each channel of Q and K divided by its ℓ1-norm over the tokens."""

    module: ClassVar[type[nn.Module]] = SimAttention
    name = "SimA"
    norm_floor = NORM_FLOOR
    has_two_orders = True


class Plain(AttentionKind):
    """QKᵀV: SimA without its normalisation."""

    module: ClassVar[type[nn.Module]] = PlainAttention
    name = "plain QKᵀV"
    has_two_orders = True


class Softmax(AttentionKind):
    """softmax(QKᵀ·scale)V, as timm's vision transformers have it."""

    module: ClassVar[type[nn.Module]] = Attention
    name = "softmax"
    rolls_out = True

    def sources(self, layer: Any) -> tuple[nn.Module, ...]:
        return layer.q_norm, layer.k_norm

    def scale(self, layer: Any) -> float:
        return float(layer.scale)

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        return torch.softmax(query @ key.transpose(-2, -1), dim=-1)

    def column_weights(self, query: Tensor, key: Tensor, totals: Tensor | None) -> Tensor:
        assert totals is not None
        return torch.exp(query @ key.transpose(-2, -1) - totals)

    def row_totals(self, query: Tensor, key: Tensor) -> Tensor | None:
        return torch.logsumexp(query @ key.transpose(-2, -1), dim=-1, keepdim=True)

    def projection(self, layer: Any) -> nn.Linear:
        norm = getattr(layer, "norm", None)
        if getattr(layer, "gate", None) is not None or not isinstance(norm, nn.Identity | None):
            raise InputError(
                "this model's attention normalises or gates what its heads give, so its output is "
                "no sum of one part a token"
            )
        return super().projection(layer)


class CrossCovariance(AttentionKind):
    """XCA: attention between channels; tokens have norms, but no weights between them."""

    module: ClassVar[type[nn.Module]] = XCA
    name = "XCA"
    has_token_weights = False

    def projection(self, layer: Any) -> nn.Linear:
        raise InputError(
            "XCA mixes channels and not tokens: no token hears another, so there is no flow to show"
        )


class _OfConvolutions(AttentionKind):
    """What CvT's two kinds share: queries, keys and values of their own, keys on a coarser grid."""

    key_stride = ConvAttention.key_stride

    def sources(self, layer: Any) -> tuple[nn.Module, ...]:
        return layer.proj_q, layer.proj_k

    def projections(self, layer: Any) -> tuple[nn.Module, ...]:
        return layer.proj_q, layer.proj_k, layer.proj_v

    def value_source(self, layer: Any) -> nn.Module:
        module: nn.Module = layer.proj_v
        return module

    def thin(self, layer: Any, queries: Kept, keys: Kept) -> list[RemovableHandle]:
        # Behind the convolutions, which need the whole grid.
        return [
            on_output(layer.proj_q, lambda x: x[:, _rows(x, queries)]),
            on_output(layer.proj_k, lambda x: x[:, _rows(x, keys)]),
            on_output(layer.proj_v, lambda x: x[:, _rows(x, keys)]),
            on_output(layer, lambda x: _scattered(x, queries)),
        ]


class SimAOfConvolutions(_OfConvolutions, SimA):
    """SimA in CvT."""

    module: ClassVar[type[nn.Module]] = SimAConvAttention


class SoftmaxOfConvolutions(_OfConvolutions, Softmax):
    """CvT's own softmax attention."""

    module: ClassVar[type[nn.Module]] = ConvAttention
    rolls_out = False  # keys are other tokens than queries


class SimAClass(SimA):
    """Class attention with SimA."""

    module: ClassVar[type[nn.Module]] = SimAClassAttention
    over_patches = False
    norm_floor = CLASS_NORM_FLOOR
    has_two_orders = False  # one row only


class SoftmaxClass(Softmax):
    """Class attention as XCiT and CaiT have it."""

    module: ClassVar[type[nn.Module]] = ClassAttn
    over_patches = False
    rolls_out = False

    def sources(self, layer: Any) -> tuple[nn.Module, ...]:
        return layer.q, layer.k

    def value_source(self, layer: Any) -> nn.Module:
        module: nn.Module = layer.v
        return module


#: Every kind of attention that is known.
ATTENTION_KINDS: tuple[AttentionKind, ...] = (
    Plain(),
    SimA(),
    SimAOfConvolutions(),
    SoftmaxOfConvolutions(),
    Softmax(),
    CrossCovariance(),
    SimAClass(),
    SoftmaxClass(),
)


def kind_of(module: nn.Module) -> AttentionKind | None:
    """The kind of attention that `module` is; None if it is none that is known."""
    return _kind_of_class(type(module))  # type: ignore[arg-type]  # classes can be hashed


@functools.cache  # a model has hundreds of modules, of a dozen classes
def _kind_of_class(module: type) -> AttentionKind | None:
    return next((kind for kind in ATTENTION_KINDS if issubclass(module, kind.module)), None)


def on_output(module: nn.Module, take: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call `take` with what `module` gives, whenever this thread runs it; the caller removes it.

    What `take` returns stands in the output's place, where it is not None.
    """
    thread = threading.get_ident()

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return take(output) if threading.get_ident() == thread else None

    return module.register_forward_hook(hook)


def on_input(module: nn.Module, give: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Have `module` take what `give` makes of its first argument, whenever this thread runs it."""
    thread = threading.get_ident()

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (give(args[0]), *args[1:]) if threading.get_ident() == thread else None

    return module.register_forward_pre_hook(hook)


def _rows(tokens: Tensor, kept: Kept) -> Tensor:
    """Which of (B, N, C) tokens stay, (N,): class and register tokens, which come first, all do."""
    first = kept.new_ones(tokens.shape[1] - len(kept))
    return torch.cat([first, kept]).to(tokens.device)


def _scattered(output: Tensor, kept: Kept) -> Tensor:
    """Rows of the tokens that stayed, (B, S, C), among zeros for the others: (B, N, C)."""
    gone = len(kept) - int(kept.sum())
    whole = output.new_zeros(output.shape[0], output.shape[1] + gone, output.shape[2])
    whole[:, _rows(whole, kept)] = output
    return whole


def side_by_side(x: Tensor) -> Tensor:
    """(B, H, N, d), (B, N, C) or one token's (B, C) as (B, N, C)."""
    if x.ndim == 4:
        return x.transpose(1, 2).flatten(2)
    return x if x.ndim == 3 else x.unsqueeze(1)
