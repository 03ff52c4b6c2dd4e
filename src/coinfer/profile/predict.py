"""How long operations take on machines that cannot be measured: one regressor for each kind of operation.

After Kang et al., "Neurosurgeon" (ASPLOS 2017), who fit one linear model per layer kind to the layer's dimensions.
Departures: a regressor here is a cost model that extrapolates (seconds = a + b flop + c read + d written + e weights,
none negative) times a correction, a cubic in the logarithms of the dimensions that stays constant outside the fitted
range. Both are fitted to the logarithm of the time with a robust loss, because the measurements contain outliers.
"""

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from itertools import combinations_with_replacement
from typing import Literal, NamedTuple

import numpy as np
import onnx

from coinfer.graph.ir import ModelGraph, Op
from coinfer.resources import OP_REGRESSORS

Side = Literal["edge", "cloud"]
"""The two machines of the measurements; their source does not name them. Edge is a processor of some 10 to 100
GFLOP/s, cloud about ten times faster and limited by some 40 microseconds per operation."""

HUBER_DELTA = 0.2
"""Residuals beyond this, in natural logarithms of seconds, count linearly."""
_RIDGE = 1e-6
_ROUNDS = 20


class Work(NamedTuple):
    """Work of n operations: arithmetic, and elements read, written, and of weights."""

    flop: np.ndarray
    read: np.ndarray
    written: np.ndarray
    weights: np.ndarray


def _conv_work(c_in: np.ndarray, c_out: np.ndarray, hw: np.ndarray, kernel: np.ndarray, stride: np.ndarray) -> Work:
    pixels, weights = np.ceil(hw / stride) ** 2, kernel**2 * c_in * c_out
    return Work(2 * weights * pixels, c_in * hw**2, c_out * pixels, weights)


def _depthwise_work(c_in: np.ndarray, hw: np.ndarray, kernel: np.ndarray, stride: np.ndarray) -> Work:
    pixels, weights = np.ceil(hw / stride) ** 2, kernel**2 * c_in
    return Work(2 * weights * pixels, c_in * hw**2, c_in * pixels, weights)


def _linear_work(in_features: np.ndarray, out_features: np.ndarray) -> Work:
    weights = in_features * out_features
    return Work(2 * weights, in_features, out_features, weights)


def _max_pool_work(c_in: np.ndarray, hw: np.ndarray, kernel: np.ndarray, stride: np.ndarray) -> Work:
    written = c_in * np.ceil(hw / stride) ** 2
    return Work(kernel**2 * written, c_in * hw**2, written, np.zeros_like(written))


def _average_pool_work(c_in: np.ndarray, hw: np.ndarray, output_hw: np.ndarray) -> Work:
    written = c_in * output_hw**2
    return Work(np.ceil(hw / output_hw) ** 2 * written, c_in * hw**2, written, np.zeros_like(written))


def _batch_norm_work(c_in: np.ndarray, hw: np.ndarray) -> Work:
    elements = c_in * hw**2
    return Work(2 * elements, elements, elements, 2 * c_in)


class OpKind(NamedTuple):
    """The dimensions of one kind of operation, and the work that follows from them."""

    dims: tuple[str, ...]
    """Names of the dimensions. Heights and widths are those of a square: `hw` is the side of the input."""
    work: Callable[..., Work]


KINDS: Mapping[str, OpKind] = {
    "conv": OpKind(("c_in", "c_out", "hw", "kernel", "stride"), _conv_work),
    "dw_conv": OpKind(("c_in", "hw", "kernel", "stride"), _depthwise_work),
    "linear": OpKind(("in_features", "out_features"), _linear_work),
    "maxpool": OpKind(("c_in", "hw", "kernel", "stride"), _max_pool_work),
    "avgpool": OpKind(("c_in", "hw", "output_hw"), _average_pool_work),
    "batchnorm": OpKind(("c_in", "hw"), _batch_norm_work),
}


class OpRegressor:
    """Seconds of one kind of operation on one machine, from its dimensions.

    Fitted: `cost_` [5] seconds fixed, per flop, per element read, written, and of weights; `coef_` [terms] of the
    correction; `low_`, `high_` [dims] the fitted range in logarithms.

    Args:
        kind: a key of `KINDS`.
        huber_delta: residuals beyond this, in natural logarithms of seconds, count linearly.
    """

    def __init__(self, kind: str, huber_delta: float = HUBER_DELTA) -> None:
        self.kind = kind
        self.huber_delta = huber_delta

    def fit(self, dims: np.ndarray, latency_s: np.ndarray) -> "OpRegressor":
        """Fit to n operations.

        Args:
            dims: [n, dims] in the order of `KINDS[kind].dims`, all positive.
            latency_s: [n] seconds, all positive.

        Returns:
            This regressor.
        """
        logs = np.log(dims)
        self.low_, self.high_ = logs.min(0), logs.max(0)
        self.cost_ = _fit_cost(_cost_terms(self.kind, dims), latency_s, self.huber_delta)
        residual = np.log(latency_s / (_cost_terms(self.kind, dims) @ self.cost_))
        self.coef_ = _fit_huber(self._correction_terms(dims), residual, self.huber_delta)
        return self

    def predict(self, dims: np.ndarray) -> np.ndarray:
        """Return the seconds [n] of operations.

        Args:
            dims: [n, dims] in the order of `KINDS[kind].dims`, all positive.
        """
        return _cost_terms(self.kind, dims) @ self.cost_ * np.exp(self._correction_terms(dims) @ self.coef_)

    def _correction_terms(self, dims: np.ndarray) -> np.ndarray:
        middle, half = (self.low_ + self.high_) / 2, np.maximum((self.high_ - self.low_) / 2, 1e-9)
        z = (np.clip(np.log(dims), self.low_, self.high_) - middle) / half
        powers = (c for degree in range(4) for c in combinations_with_replacement(range(z.shape[1]), degree))
        return np.stack([np.prod(z[:, list(c)], axis=1) for c in powers], axis=1)

    def to_dict(self) -> dict[str, list[float]]:
        """Return the fitted parameters, for a file."""
        return {name: [float(f"{v:.6g}") for v in getattr(self, name)] for name in _LEARNED}

    @staticmethod
    def from_dict(kind: str, learned: Mapping[str, list[float]]) -> "OpRegressor":
        """Return the regressor with parameters from a file: the inverse of `to_dict`.

        Args:
            kind: a key of `KINDS`.
            learned: parameters by name.
        """
        regressor = OpRegressor(kind)
        for name in _LEARNED:
            setattr(regressor, name, np.array(learned[name]))
        return regressor


_LEARNED = ("cost_", "coef_", "low_", "high_")


def _cost_terms(kind: str, dims: np.ndarray) -> np.ndarray:
    work = KINDS[kind].work(*dims.T.astype(float))
    return np.stack([np.ones(len(dims)), *work], axis=1)


def _fit_cost(terms: np.ndarray, latency_s: np.ndarray, huber_delta: float) -> np.ndarray:
    """Return the non-negative cost of each term; the logarithm of their sum fits that of the measured seconds."""
    from scipy.optimize import least_squares

    scale = np.where(terms.any(0), terms.mean(0), 1.0)
    unit = terms / scale

    def residual(log_cost: np.ndarray) -> np.ndarray:
        return np.log(unit @ np.exp(log_cost)) - np.log(latency_s)

    def jacobian(log_cost: np.ndarray) -> np.ndarray:
        parts = unit * np.exp(log_cost)
        return parts / parts.sum(1, keepdims=True)

    start = np.full(terms.shape[1], np.log(np.median(latency_s) / terms.shape[1]))
    solution = least_squares(
        residual,
        start,
        jac=jacobian,  # pyright: ignore[reportArgumentType]  # SciPy's stub knows names of methods only
        bounds=(-60.0, 20.0),
        loss="soft_l1",
        f_scale=huber_delta,
    )
    return np.where(terms.any(0), np.exp(solution.x) / scale, 0.0)


def _fit_huber(terms: np.ndarray, target: np.ndarray, delta: float) -> np.ndarray:
    """Return the coefficients of a Huber regression by iteratively reweighted least squares, with a slight ridge."""
    weight = np.ones(len(target))
    coef = np.zeros(terms.shape[1])
    for _ in range(_ROUNDS):
        weighted = terms * weight[:, None]
        coef = np.linalg.solve(terms.T @ weighted + _RIDGE * len(target) * np.eye(len(coef)), weighted.T @ target)
        weight = np.minimum(1.0, delta / np.maximum(np.abs(target - terms @ coef), 1e-12))
    return coef


def predict_ops(graph: ModelGraph, side: Side) -> np.ndarray:
    """Return the predicted seconds [ops] of every operation at batch 1.

    Activations and sums that executors fuse into a convolution or product cost nothing of their own. Kinds that were
    not measured and touch every element (sums, concatenations, softmax ...) are timed as a batch norm that reads and
    writes as many elements.

    Args:
        graph: the network.
        side: one of the two machines.

    Raises:
        ValueError: if no such machine was measured.
    """
    regressors = _shipped(side)
    fused = {i for group in graph.groups for i in group[1:]}
    seconds = np.zeros(len(graph.ops))
    for i, op in enumerate(graph.ops):
        if i not in fused and op.kind not in _FREE:
            kind, dims = op_dims(graph, op, graph.node(op))
            seconds[i] = regressors[kind].predict(np.array([dims], dtype=float))[0]
    return seconds


_FREE = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def op_dims(graph: ModelGraph, op: Op, node: onnx.NodeProto) -> tuple[str, tuple[float, ...]]:
    """Return which regressor times an operation, and the dimensions for it.

    Args:
        graph: gives the shapes.
        op: the operation.
        node: the same operation in ONNX, which has its attributes.
    """
    shape = graph.tensors[op.inputs[0]].shape if op.inputs else ()
    out = graph.tensors[op.outputs[0]].shape
    weights = [graph.weights[name].shape for name in op.weights]
    if op.kind == "Conv" and len(shape) == 4 and weights:
        return _conv_dims(shape, weights[0], node)
    if op.kind in {"Gemm", "MatMul"} and weights:
        return _product_dims(shape, out)
    if op.kind == "MaxPool" and len(shape) == 4:
        kernel, stride = _side(_attribute(node, "kernel_shape")), _side(_attribute(node, "strides"))
        return "maxpool", (shape[1], _side(shape[2:]), kernel, stride)
    if op.kind in {"AveragePool", "GlobalAveragePool"} and len(shape) == 4:
        return "avgpool", (shape[1], _side(shape[2:]), _side(out[2:]))
    touched = sum(graph.tensors[name].elements for name in (*op.inputs, *op.outputs)) / 2
    channels = shape[1] if len(shape) > 2 else 1
    return "batchnorm", (channels, math.sqrt(max(touched / channels, 1.0)))


def _conv_dims(shape: tuple[int, ...], weight: tuple[int, ...], node: onnx.NodeProto) -> tuple[str, tuple[float, ...]]:
    hw, kernel, stride = _side(shape[2:]), _side(weight[2:]), _side(_attribute(node, "strides"))
    if any(a.name == "group" and a.i > 1 for a in node.attribute) and weight[1] == 1:
        return "dw_conv", (weight[0], hw, kernel, stride)
    return "conv", (weight[1], weight[0], hw, kernel, stride)


def _product_dims(shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[str, tuple[float, ...]]:
    """Return the dimensions of a product; over several rows it is a convolution of kernel 1 over as many pixels."""
    rows = math.prod(out[:-1])
    if rows == 1:
        return "linear", (shape[-1], out[-1])
    return "conv", (shape[-1], out[-1], math.sqrt(rows), 1, 1)


def _attribute(node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    """Return an attribute that lists sizes; ones if the node does not have it."""
    return next((tuple(a.ints) for a in node.attribute if a.name == name), (1, 1))


def _side(sizes: tuple[int, ...]) -> float:
    """Return the side of the square of equal area."""
    return math.sqrt(math.prod(sizes))


@cache
def _shipped(side: Side) -> Mapping[str, OpRegressor]:
    """Return the fitted regressors of `data/op_regressors.json`, written by tools/fit_regressors.py."""
    fitted = json.loads(OP_REGRESSORS.read_text(encoding="utf-8"))["sides"]
    if side not in fitted:
        raise ValueError(f"no regressors for side {side!r}: it is one of {', '.join(sorted(fitted))}")
    return {kind: OpRegressor.from_dict(kind, learned) for kind, learned in fitted[side].items()}
