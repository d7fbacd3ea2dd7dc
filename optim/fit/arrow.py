"""Arrow-shaped normal equations: shared parameters couple clones, clones do not couple with each other.

Eliminating the clone blocks (Schur complement) makes cost and memory linear in the number of clones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Arrow:
    """H = [[ss, cs^T], [cs, cc]] with gradient; ss [n, n], cs [C, m, n], cc [C, m, m], gs [n], gc [C, m]."""

    ss: np.ndarray
    cs: np.ndarray
    cc: np.ndarray
    gs: np.ndarray
    gc: np.ndarray

    def damped(self, damping: float, held_s: np.ndarray, held_c: np.ndarray) -> Arrow:
        """Marquardt damping on the diagonal; held parameters (at a bound, pulled outwards) do not move."""
        ss, cc = self.ss.copy(), self.cc.copy()
        i, j = np.arange(ss.shape[0]), np.arange(cc.shape[1])
        ss[i, i] += damping * np.maximum(ss[i, i], 1e-8)
        cc[:, j, j] += damping * np.maximum(cc[:, j, j], 1e-8)
        stiff = 1e12
        ss[i, i] += np.where(held_s, stiff * (1.0 + ss[i, i]), 0.0)
        cc[:, j, j] += np.where(held_c, stiff * (1.0 + cc[:, j, j]), 0.0)
        return Arrow(ss, self.cs, cc, self.gs, self.gc)

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """The step -H^-1 g, shared part and clone parts. Raises `numpy.linalg.LinAlgError` when singular."""
        schur, gain = self.schur()
        reduced = self.gs - np.einsum("cmn,cm->n", gain, self.gc)
        step_s = -np.linalg.solve(schur, reduced)
        rhs = self.gc + self.cs @ step_s
        step_c = -np.linalg.solve(self.cc, rhs[..., None])[..., 0]
        return step_s, step_c

    def schur(self) -> tuple[np.ndarray, np.ndarray]:
        """Information on the shared parameters after clone blocks are eliminated, and the gain cc^-1 cs."""
        gain = np.linalg.solve(self.cc, self.cs)
        return self.ss - np.einsum("cmn,cmk->nk", self.cs, gain), gain

    def sample(self, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws from N(0, H^-1): shared [E, n] and clone parts [E, C, m], with their correlation."""
        schur, gain = self.schur()
        root = np.linalg.cholesky(_symmetric(schur))
        z = rng.standard_normal((draws, schur.shape[0]))
        shared = np.linalg.solve(root.T[None], z[..., None])[..., 0]
        roots = np.linalg.cholesky(_symmetric(self.cc))
        zc = rng.standard_normal((draws, *self.gc.shape))
        own = np.linalg.solve(np.swapaxes(roots, -1, -2)[None], zc[..., None])[..., 0]
        return shared, own - np.einsum("cmn,en->ecm", gain, shared)

    def variances(self) -> tuple[np.ndarray, np.ndarray]:
        """Diagonal of H^-1: shared [n], clone parts [C, m]."""
        schur, gain = self.schur()
        covariance = np.linalg.inv(_symmetric(schur))
        own = np.linalg.inv(_symmetric(self.cc))
        spread = np.einsum("cmn,nk,cmk->cm", gain, covariance, gain)
        return np.diag(covariance).copy(), np.einsum("cmm->cm", own) + spread


def _symmetric(m: np.ndarray) -> np.ndarray:
    return 0.5 * (m + np.swapaxes(m, -1, -2))
