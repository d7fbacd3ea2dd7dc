"""Arrow-shaped normal equations: shared parameters couple the groups, groups do not couple with each other.

Eliminating the blocks of the groups (Schur complement) makes cost and memory linear in the number of groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# curvature that is added to a parameter which must not move, relative to its own
FIXING_FACTOR = 1e12


@dataclass(frozen=True)
class Arrow:
    """Normal equations H step = -g with H = [[ss, cs^T], [cs, cc]] and gradient g = (gs, gc).

    `ss` [n, n] and `gs` [n] belong to the shared part, `cc` [C, m, m] and `gc` [C, m] to the blocks of the groups, and
    `cs` [C, m, n] couples the two. Parts of a step are `step_s` [n] and `step_c` [C, m]. Methods that solve raise
    `numpy.linalg.LinAlgError` when H is singular.
    """

    ss: np.ndarray
    cs: np.ndarray
    cc: np.ndarray
    gs: np.ndarray
    gc: np.ndarray

    def with_damping(self, damping: float, fixed_s: np.ndarray, fixed_c: np.ndarray) -> Arrow:
        """Add Marquardt damping to the diagonal, and fix the parameters that the masks [n], [C, m] mark."""
        ss, cc = self.ss.copy(), self.cc.copy()
        i, j = np.arange(ss.shape[0]), np.arange(cc.shape[1])
        ss[i, i] += damping * np.maximum(ss[i, i], 1e-8)
        cc[:, j, j] += damping * np.maximum(cc[:, j, j], 1e-8)
        ss[i, i] += np.where(fixed_s, FIXING_FACTOR * (1.0 + ss[i, i]), 0.0)
        cc[:, j, j] += np.where(fixed_c, FIXING_FACTOR * (1.0 + cc[:, j, j]), 0.0)
        return Arrow(ss, self.cs, cc, self.gs, self.gc)

    def restricted_to(self, free: np.ndarray) -> Arrow:
        """The equations without the shared parameters that are not `free` [n]: those stay where they are."""
        return Arrow(self.ss[np.ix_(free, free)], self.cs[:, :, free], self.cc, self.gs[free], self.gc)

    def newton_step(self) -> tuple[np.ndarray, np.ndarray]:
        """Newton step -H^-1 g: shared part [n] and blocks [C, m]."""
        schur, gain = self.schur_complement()
        reduced = self.gs - np.tensordot(gain, self.gc, axes=([0, 1], [0, 1]))
        step_s = -np.linalg.solve(schur, reduced)
        rhs = self.gc + self.cs @ step_s
        step_c = -np.linalg.solve(self.cc, rhs[..., None])[..., 0]
        return step_s, step_c

    def predicted_decrease(self, step_s: np.ndarray, step_c: np.ndarray) -> float:
        """Decrease of the quadratic model along a step."""
        linear = self.gs @ step_s + np.sum(self.gc * step_c)
        cross = np.sum(step_c * (self.cs @ step_s))
        own = np.sum(step_c * (self.cc @ step_c[..., None])[..., 0])
        return -float(linear + 0.5 * (step_s @ self.ss @ step_s) + cross + 0.5 * own)

    def step_norm(self, step_s: np.ndarray, step_c: np.ndarray) -> float:
        """Length of a step, each parameter in units of its standard deviation by the diagonal of H."""
        ss, cc = np.diag(self.ss), np.einsum("cmm->cm", self.cc)
        return float(np.sqrt(np.sum(ss * step_s**2) + np.sum(cc * step_c**2)))

    def schur_complement(self) -> tuple[np.ndarray, np.ndarray]:
        """Information on the shared part [n, n] after the blocks are eliminated, and the gain cc^-1 cs [C, m, n]."""
        gain = np.linalg.solve(self.cc, self.cs)
        return self.ss - np.tensordot(self.cs, gain, axes=([0, 1], [0, 1])), gain

    def draw_normal(self, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws from N(0, H^-1): shared part [E, n] and blocks [E, C, m], with their correlation."""
        schur, gain = self.schur_complement()
        root = np.linalg.cholesky(_symmetric(schur))
        z = rng.standard_normal((draws, schur.shape[0]))
        shared = np.linalg.solve(root.T[None], z[..., None])[..., 0]
        roots = np.linalg.cholesky(_symmetric(self.cc))
        zc = rng.standard_normal((draws, *self.gc.shape))
        own = np.linalg.solve(np.swapaxes(roots, -1, -2)[None], zc[..., None])[..., 0]
        return shared, own - np.einsum("cmn,en->ecm", gain, shared)

    def covariance(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Covariance H^-1: of the shared part [n, n], of each block [C, m, m], and between the two [C, m, n]."""
        schur, gain = self.schur_complement()
        shared = np.linalg.inv(_symmetric(schur))
        across = -gain @ shared
        own = np.linalg.inv(_symmetric(self.cc)) - across @ np.swapaxes(gain, -1, -2)
        return shared, own, across

    def variances(self) -> tuple[np.ndarray, np.ndarray]:
        """Variances, the diagonal of H^-1: shared part [n], blocks [C, m]."""
        shared, own, _ = self.covariance()
        return np.diag(shared).copy(), np.einsum("cmm->cm", own).copy()

    def log_determinant(self) -> float:
        """Logarithm of the determinant of H. Raises `numpy.linalg.LinAlgError` unless H is positive definite."""
        schur, _ = self.schur_complement()
        roots = [np.linalg.cholesky(_symmetric(m)) for m in (schur, self.cc)]
        return 2.0 * float(sum(np.sum(np.log(np.einsum("...ii->...i", r))) for r in roots))


def _symmetric(m: np.ndarray) -> np.ndarray:
    return 0.5 * (m + np.swapaxes(m, -1, -2))
