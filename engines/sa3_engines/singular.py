"""The leading singular vectors of a matrix, in a fraction of the time that all of them take."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
TOLERANCE = 1e-7  # the largest angle between a vector and the true one: the last digit of fp32
_SPARE = 32  # directions that are followed beyond those asked for: the more, the sooner those are found
_MOST_ROUNDS, _MOST_DEGREE = 40, 8
_LEAST_GAP = 1e-12  # beside the largest eigenvalue: what rounding leaves of smaller ones proves nothing
_MOST_GROWTH = 30.0  # as a power of e: what still leaves digits to the directions that grow least


def leading(matrix: Array, count: int) -> tuple[Array, Array]:
    """U (rows, count) and V transposed (count, columns) of the largest singular values, in fp32.

    Signs are arbitrary; here the largest entry of each column of U is positive.
    """
    u, vt = _followed(matrix, count) or _whole(matrix, count)
    signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(count)])
    return (u * signs).astype(np.float32), (vt * signs[:, None]).astype(np.float32)


def _whole(matrix: Array, count: int) -> tuple[Array, Array]:
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :count], vt[:count]


def _followed(matrix: Array, count: int) -> tuple[Array, Array] | None:
    """By subspace iteration; None where that is not worth it, or is not proved to have arrived."""
    rows, columns = matrix.shape
    if rows < columns:
        turned = _followed(matrix.T, count)
        return turned and (turned[1].T, turned[0].T)
    if 2 * (count + _SPARE) > columns:
        return None
    # Squares have twice the digits: fp64 holds those of an fp32 matrix.
    tall = matrix.astype(np.float64)
    found = _eigenvectors(tall.T @ tall, count)
    if found is None:
        return None
    values, v = found
    u = tall @ v / np.sqrt(values)
    return (u, v.T) if np.abs(u.T @ u - np.eye(count)).max() <= TOLERANCE else None


def _eigenvectors(square: Array, count: int) -> tuple[Array, Array] | None:
    """The largest eigenvalues of a matrix that has no negative ones, and their vectors.

    A vector is no further from the true one than what it leaves (A v - a v) divided by the distance to the next
    eigenvalue. Where eigenvalues are so close that this proves nothing, as where all are the same, there is no answer.
    """
    vectors = np.random.default_rng(0).standard_normal((len(square), count + _SPARE))
    for _ in range(_MOST_ROUNDS):
        vectors = np.linalg.qr(vectors)[0]
        products = square @ vectors
        values, turn = np.linalg.eigh(vectors.T @ products)
        values, turn = values[::-1], turn[:, ::-1]
        vectors, products = vectors @ turn, products @ turn
        gaps = values[:count] - values[1 : count + 1]
        gaps[1:] = np.minimum(gaps[1:], gaps[:-1].copy())
        if values[-1] <= 0 or gaps.min() <= _LEAST_GAP * values[0]:
            return None
        angle = (np.linalg.norm(products - vectors * values, axis=0)[:count] / gaps).max()
        if angle <= TOLERANCE:
            return values[:count], vectors[:, :count]
        vectors = _grown(square, vectors, products, values[[0, count - 1, -1]], angle / TOLERANCE)
    return None


def _grown(square: Array, vectors: Array, products: Array, values: Array, wanted: float) -> Array:
    """A Chebyshev polynomial of the matrix, times the vectors: it stays within 1 up to the least eigenvalue followed,
    and grows beyond as fast as any does. values: the first, the last asked for, which is to grow as wanted, the least.
    """
    half = values[2] / 2
    first, last = np.arccosh(values[:2] / half - 1)
    degree = np.ceil(min(_MOST_DEGREE, _MOST_GROWTH / first, np.arccosh(wanted) / last))
    before, now = vectors, products / half - vectors
    for _ in range(1, int(degree)):
        before, now = now, square @ now * (2 / half) - 2 * now - before
    return now
