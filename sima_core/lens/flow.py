"""What attention does with every token: one part a token, which the layer's output is the sum of.

Token i's output is Σⱼ cᵢⱼ + bias, with cᵢⱼ = Σ_heads wᵢⱼ·vⱼW_O: exactly so once the weights w are
known. In SimA wᵢⱼ is q̂ᵢ·k̂ⱼ and nothing couples the tokens any more, so that what one token gets
from all others, or gives them, takes O(N·C). Softmax couples a row's weights by their sum, which is
taken once. No N × N matrix is kept.

Shapes: N tokens that ask, M that are asked, H heads, d channels a head, C channels of the output.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sima_core.errors import InputError
from sima_core.lens.layers import Grid, Layer, require_head
from sima_core.lens.tokens import place_on
from sima_core.time_limit import check_time
from sima_core.words import plain

#: A patch's token by its row and column, counted from 1, or the class token.
Token = tuple[int, int] | Literal["class"]
#: What is known of each part: see `Parts`.
Amount = Literal["weights", "signed", "norms", "along"]

#: Bytes of the largest block of weights that is held at a time: what stays in a processor's cache.
_BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True, eq=False)
class Parts:
    """What one token receives from each, or sends to each, of T tokens; float32 (T,) each.

    Class, distillation and register tokens come before those of the patches; `on_grid` leaves them
    out.
    """

    #: The attention weights, averaged over heads; SimA's may be negative.
    weights: NDArray[np.float32]
    #: Σ_heads w·‖vW_O‖: the weights by the size of what they carry; below zero, it subtracts.
    signed: NDArray[np.float32]
    #: ‖c‖: the exact size of each part.
    norms: NDArray[np.float32]
    #: c·g for the direction g that was asked for.
    along: NDArray[np.float32] | None
    grid: Grid
    #: How much of all heads' weights, by size, is negative: from 0 to 1.
    negative_share: float
    #: ‖Σc‖: the length of the parts' sum.
    length: float

    @property
    def cancelled(self) -> float:
        """How much of the parts' sizes is lost in their sum: 1 − ‖Σc‖ / Σ‖c‖."""
        return _cancelled(self.length, float(self.norms.sum(dtype=np.float64)))

    def on_grid(self, amount: Amount = "norms") -> NDArray[np.float32]:
        """One amount of the patches' tokens: float32 (rows, cols).

        Raises:
            InputError: no such amount, or ``along`` where no direction was given.
        """
        if amount not in get_args(Amount):
            raise InputError(
                f"an amount is one of {', '.join(get_args(Amount))}; got {plain(repr(amount))}"
            )
        values = getattr(self, amount)
        if values is None:
            raise InputError("name a direction to see how far the parts go along it")
        rows, cols = self.grid
        patches: NDArray[np.float32] = values[len(values) - rows * cols :].reshape(rows, cols)
        return patches


@dataclass(frozen=True, eq=False)
class FlowTotals:
    """The parts of all pairs of tokens, added up; class and register tokens come first."""

    #: Σᵢ‖cᵢⱼ‖: the size of all that each token sends, float32 (M,).
    sent: NDArray[np.float32]
    #: Σⱼ‖cᵢⱼ‖: the size of all that is sent to each token, part by part, float32 (N,).
    gathered: NDArray[np.float32]
    #: ‖Σⱼcᵢⱼ‖: the size of what it receives, once its parts have cancelled, float32 (N,).
    received: NDArray[np.float32]
    #: How much of all weights, by size, is negative: from 0 to 1.
    negative_share: float
    #: The largest difference between the parts' sum and the layer's own output, by the output's
    #: largest value; None for one head, whose output no layer gives.
    error: float | None

    @property
    def cancelled(self) -> float:
        """How much of the parts' sizes is lost in their sums, over all tokens: from 0 to 1."""
        return _cancelled(float(self.received.sum()), float(self.gathered.sum()))


@dataclass(frozen=True, eq=False)
class Flow:
    """One layer's attention on one picture, with all that its parts are computed from."""

    layer: Layer
    #: Q̂ times the kind's scale, K̂ (Q and K where nothing is normalised) and V: (H, tokens, d).
    query: Tensor
    key: Tensor
    value: Tensor
    #: W_O, (C, H·d), and its bias, (C,).
    projection: Tensor
    bias: Tensor | None
    #: What the layer gave: (N, C); None where one head is looked at.
    output: Tensor | None
    query_grid: Grid
    key_grid: Grid

    @property
    def num_heads(self) -> int:
        """How many heads are looked at together."""
        return len(self.query)

    def of_head(self, head: int | None) -> "Flow":
        """The flow through one head, from 1; through all of them for None.

        Raises:
            InputError: it does not exist.
        """
        if head is None:
            return self
        require_head(head, self.num_heads)
        one = slice(head - 1, head)
        width = self.value.shape[-1]
        return replace(
            self,
            query=self.query[one],
            key=self.key[one],
            value=self.value[one],
            projection=self.projection[:, (head - 1) * width : head * width],
            bias=None,
            output=None,
        )

    def received(
        self, token: Token, head: int | None = None, direction: Tensor | None = None
    ) -> Parts:
        """What `token` receives from every token: one part each, which add up to its output.

        Args:
            head: counted from 1; None takes all heads together.
            direction: (C,); the parts' components along it are given too.

        Raises:
            InputError: a token or head that does not exist, or a direction of another width.
        """
        flow, row = self.of_head(head), self._row(token, self.query_grid, self.query.shape[1])
        weights = flow.layer.kind.weights(flow.query[:, row : row + 1], flow.key)[:, 0]
        given = torch.einsum("hm,hmd->hd", weights, flow.value)
        return flow._parts(weights, flow.value, flow._factors, given, direction, self.key_grid)

    def sent(self, token: Token, head: int | None = None, direction: Tensor | None = None) -> Parts:
        """What `token` sends to every token; as `received`. In CvT it is one of the keys' grid.

        Raises:
            InputError: as `received`.
        """
        flow, row = self.of_head(head), self._row(token, self.key_grid, self.key.shape[1])
        one = slice(row, row + 1)
        weights = flow.layer.kind.column_weights(flow.query, flow.key[:, one], flow.row_totals)
        weights, value = weights[..., 0], flow.value[:, one]
        given = weights.sum(dim=1)[:, None] * value[:, 0]
        factors = flow._factors[one]
        return flow._parts(weights, value, factors, given, direction, self.query_grid)

    def key_under(self, token: Token) -> Token:
        """The key that a token of the queries' grid lies under, which is itself but in CvT."""
        if token == "class":
            return token
        row, col = (
            (place - 1) * keys // max(queries, 1) + 1
            for place, queries, keys in zip(token, self.query_grid, self.key_grid, strict=True)
        )
        return row, col

    def totals(self, head: int | None = None) -> FlowTotals:
        """All pairs of tokens, by blocks of rows.

        Raises:
            InputError: a head that does not exist.
            OutOfTimeError: where there is a `time_limit`.
        """
        flow = self.of_head(head)
        num_queries, num_keys = flow.query.shape[1], flow.key.shape[1]
        sent = flow.query.new_zeros(num_keys, dtype=torch.float64)
        gathered = flow.query.new_zeros(num_queries, dtype=torch.float64)
        given = flow.value.new_empty(flow.num_heads, num_queries, flow.value.shape[-1])
        negative = size = 0.0
        for rows, weights in flow._blocks():
            norms = flow._norms(weights, flow._factors)
            sent += norms.sum(dim=0, dtype=torch.float64)
            gathered[rows] = norms.sum(dim=1, dtype=torch.float64)
            given[:, rows] = weights @ flow.value
            size += float(weights.abs().sum())
            negative += float(weights.clamp(max=0).abs().sum())
        summed = flow._projected(given)
        error = None
        if flow.output is not None:
            whole = summed if flow.bias is None else summed + flow.bias
            largest = float(flow.output.abs().max())
            error = float((whole - flow.output).abs().max()) / largest if largest else 0.0
        received = torch.linalg.vector_norm(summed, dim=-1)
        share = negative / size if size else 0.0
        return FlowTotals(_numpy(sent), _numpy(gathered), _numpy(received), share, error)

    def along(self, directions: Tensor, head: int | None = None) -> NDArray[np.float32]:
        """How far each token moves all outputs along their own directions: Σᵢcᵢⱼ·gᵢ, float32 (M,).

        Args:
            directions: (N, C), such as a logit's gradient by the layer's output.

        Raises:
            InputError: a head that does not exist, or directions of another shape.
        """
        flow = self.of_head(head)
        if directions.shape != (flow.query.shape[1], len(flow.projection)):
            raise InputError(
                f"directions must be {flow.query.shape[1]} × {len(flow.projection)} numbers, one "
                "row a token of the layer's output"
            )
        wanted = directions.to(flow.projection) @ flow.projection
        wanted = wanted.view(-1, flow.num_heads, flow.width).transpose(0, 1)
        sent = flow.query.new_zeros(flow.key.shape[1], dtype=torch.float64)
        for rows, weights in flow._blocks():
            moved = weights.mul_(wanted[:, rows] @ flow.value.transpose(1, 2))
            sent += moved.sum(dim=(0, 1), dtype=torch.float64)
        return _numpy(sent)

    @property
    def width(self) -> int:
        """d: channels of a head's values."""
        return self.value.shape[-1]

    @cached_property
    def value_norm(self) -> Tensor:
        """‖vW_O‖, the size of what each token has to give, head by head: float32 (H, M)."""
        norms: Tensor = self._gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().T.float()
        return norms

    @cached_property
    def row_totals(self) -> Tensor | None:
        """What couples each row's weights, (H, N, 1): softmax's log-sums; None in SimA."""
        kind = self.layer.kind
        totals = [kind.row_totals(self.query[:, rows], self.key) for rows in self._rows()]
        found = [part for part in totals if part is not None]
        return torch.cat(found, dim=1) if found else None

    def without(self, keys: Tensor) -> Tensor:
        """The layer's output less what some tokens sent, the norms and sums as they are: (N, C).

        Args:
            keys: bool (M,), true for the tokens whose parts are taken away.
        """
        assert self.output is not None
        key, value, totals = self.key[:, keys], self.value[:, keys], self.row_totals
        if totals is None:  # a downdate of K̂ᵀV, of rank one a token
            taken = self.query @ (key.transpose(1, 2) @ value)
        else:
            weights = self.layer.kind.column_weights
            blocks = [
                weights(self.query[:, rows], key, totals[:, rows]) @ value for rows in self._rows()
            ]
            taken = torch.cat(blocks, dim=1)
        return self.output - self._projected(taken)

    @cached_property
    def _gram(self) -> Tensor:
        """Products of the heads' vW_O, token by token: float64 (M, H, H).

        With it ‖cᵢⱼ‖² is a form in the H weights of a pair, and no vector c is needed for a norm.
        """
        heads, tokens, width = self.value.shape
        projection = self.projection.double()
        products = (projection.T @ projection).view(heads, width, heads * width)
        value = self.value.double()
        found = value.new_empty(tokens, heads, heads)
        for head in range(heads):
            carried = (value[head] @ products[head]).view(tokens, heads, width)
            found[:, head] = (carried * value.transpose(0, 1)).sum(dim=-1)
        return found

    @cached_property
    def _factors(self) -> Tensor:
        """F with F·Fᵀ the Gram matrix, so that ‖cᵢⱼ‖ = ‖wᵢⱼF‖ to float32: (M, H, H)."""
        if self.num_heads == 1:
            return self._gram.clamp_min(0).sqrt().float()
        finite = self._gram.isfinite().flatten(1).all(dim=1)[:, None, None]  # eigh takes no others
        values, vectors = torch.linalg.eigh(self._gram.where(finite, 0.0))
        factors: Tensor = vectors * values.clamp_min(0).sqrt().unsqueeze(1)
        return factors.where(finite, math.nan).float()

    def _rows(self) -> Iterator[slice]:
        """Blocks of rows whose weights fit into the cache."""
        num_queries, num_keys = self.query.shape[1], self.key.shape[1]
        step = max(1, _BLOCK_BYTES // (4 * self.num_heads * num_keys))
        for start in range(0, num_queries, step):
            check_time()
            yield slice(start, min(start + step, num_queries))

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their weights, (H, rows, M)."""
        for rows in self._rows():
            yield rows, self.layer.kind.weights(self.query[:, rows], self.key)

    def _norms(self, weights: Tensor, factors: Tensor) -> Tensor:
        """‖c‖ of each pair: (H, R, M) weights and (M, H, H) factors to (R, M)."""
        if self.num_heads == 1:
            return weights[0].abs() * factors[:, 0, 0]
        norms: Tensor = torch.linalg.vector_norm(weights.permute(2, 1, 0) @ factors, dim=-1)
        return norms.T

    def _projected(self, given: Tensor) -> Tensor:
        """What heads gave through W_O, bias not added: (H, N, d) to (N, C)."""
        return given.transpose(0, 1).flatten(1) @ self.projection.T

    def _parts(
        self,
        weights: Tensor,
        value: Tensor,
        factors: Tensor,
        given: Tensor,
        direction: Tensor | None,
        grid: Grid,
    ) -> Parts:
        """Parts with (H, T) weights, of T values or of one: (H, T or 1, d); `given` is (H, d)."""
        along = None
        if direction is not None:
            if direction.shape != self.projection.shape[:1]:
                raise InputError(f"a direction must be {len(self.projection)} numbers")
            wanted = (direction.to(self.projection) @ self.projection).view(-1, self.width, 1)
            along = _numpy((weights * (value @ wanted)[..., 0]).sum(dim=0))
        factors = factors.expand(weights.shape[1], -1, -1)
        sizes = torch.linalg.vector_norm(factors, dim=-1).T  # ‖vW_O‖, head by head
        size = float(weights.abs().sum())
        return Parts(
            _numpy(weights.mean(dim=0)),
            _numpy((weights * sizes).sum(dim=0)),
            _numpy(self._norms(weights[:, None], factors)[0]),
            along,
            grid,
            float(weights.clamp(max=0).abs().sum()) / size if size else 0.0,
            float(torch.linalg.vector_norm(self._projected(given[:, None]))),
        )

    def _row(self, token: Token, grid: Grid, num_tokens: int) -> int:
        """The token's place among `num_tokens`, of which the last are those of the grid."""
        rows, cols = grid
        if token == "class":
            if self.layer.class_row is None:
                raise InputError(f"no class token takes part in layer {self.layer.number}")
            return self.layer.class_row
        if not rows:
            raise InputError('only the class token asks in this layer: name "class"')
        row, col = place_on(grid, token, ', or "class"')
        return num_tokens - rows * cols + (row - 1) * cols + col - 1


def _numpy(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.float().cpu().numpy())


def _cancelled(length: float, path: float) -> float:
    return 1 - length / path if path else 0.0
