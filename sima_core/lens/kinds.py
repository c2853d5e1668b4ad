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

    def watch(self, layer: nn.Module, record: Record) -> list[RemovableHandle]:
        """Call `record` whenever this thread has run `layer`; the caller removes the hooks.

        Q and K are what the projections give, bias included; after q_norm and k_norm where the
        layer has them, and before every other normalisation or scale: SimA's ℓ1-norms, XCA's
        ℓ2-norms, the scale of softmax. In class attention Q may have the class token only (N = 1).
        """
        thread = threading.get_ident()
        sources = self.sources(layer)
        if len(sources) == 1:

            def split(module: nn.Module, args: tuple[Any, ...], qkv: Tensor) -> None:
                if threading.get_ident() == thread:
                    query, key, _ = qkv.detach().chunk(3, dim=-1)
                    record(query, key)

            return [sources[0].register_forward_hook(split)]

        seen: dict[str, Tensor] = {}

        def keep_query(module: nn.Module, args: tuple[Any, ...], query: Tensor) -> None:
            if threading.get_ident() == thread:
                seen["query"] = _side_by_side(query.detach())

        def give_both(module: nn.Module, args: tuple[Any, ...], key: Tensor) -> None:
            if threading.get_ident() == thread:
                record(seen.pop("query"), _side_by_side(key.detach()))

        query, key = sources
        return [query.register_forward_hook(keep_query), key.register_forward_hook(give_both)]

    def normalized(self, tokens: Tensor) -> Tensor:
        """Q̂ of Q, or K̂ of K, where the kind has them: (B, N, C) alike, float32."""
        tokens = tokens.float()
        return tokens if self.norm_floor is None else l1_normalize(tokens, self.norm_floor)

    def weights(self, layer: Any, query: Tensor, key: Tensor) -> Tensor:
        """Attention weights of `normalized` Q and K: (B, H, N, d) and (B, H, M, d) to (B, H, N, M).

        Raises:
            InputError: the kind has no weights between tokens.
        """
        return query @ key.transpose(-2, -1)


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

    def weights(self, layer: Any, query: Tensor, key: Tensor) -> Tensor:
        return torch.softmax(query @ key.transpose(-2, -1) * layer.scale, dim=-1)


class CrossCovariance(AttentionKind):
    """XCA: attention between channels; tokens have norms, but no weights between them."""

    module: ClassVar[type[nn.Module]] = XCA
    name = "XCA"
    has_token_weights = False

    def weights(self, layer: Any, query: Tensor, key: Tensor) -> Tensor:
        raise InputError("XCA mixes channels and not tokens: it has no weights between tokens")


class _OfConvolutions(AttentionKind):
    """What CvT's two kinds share: queries, keys and values of their own, keys on a coarser grid."""

    key_stride = ConvAttention.key_stride

    def sources(self, layer: Any) -> tuple[nn.Module, ...]:
        return layer.proj_q, layer.proj_k

    def projections(self, layer: Any) -> tuple[nn.Module, ...]:
        return layer.proj_q, layer.proj_k, layer.proj_v


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


def _side_by_side(x: Tensor) -> Tensor:
    """(B, H, N, d), (B, N, C) or one token's (B, C) as (B, N, C)."""
    if x.ndim == 4:
        return x.transpose(1, 2).flatten(2)
    return x if x.ndim == 3 else x.unsqueeze(1)
