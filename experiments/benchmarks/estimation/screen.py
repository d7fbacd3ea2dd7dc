"""The problem: a made screen of CHO clones, its noise and priors, and what every program is held to.

Time in days. States Xv, Xd (1e9 cells/L), Glc, Gln, Lac, Amm (mmol/L), mAb (mg/L), V (L). Ten shared parameters and
four per clone, on the natural-logarithm scale, with normal priors.
"""

from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import solve_ivp
from scipy.sparse import csr_matrix

SHARED = ("Kg", "Kq", "KIl", "KIa", "Yg", "Yq", "mg", "Ya", "kdq", "Kda")
OWN = ("mum", "kd", "qp", "Yl")
STATES = ("Xv", "Xd", "Glc", "Gln", "Lac", "Amm", "mAb")
TRUE_SHARED = np.array([0.6, 0.3, 45.0, 8.0, 0.25, 1.2, 0.6, 0.8, 0.08, 6.0])
CENTRE_OWN = np.array([0.85, 0.15, 25.0, 1.2])
DAYS = np.arange(15.0)
BOLUS_DAYS = (3.05, 5.05, 7.05, 9.05, 11.05)
FEED_GLC, FEED_GLN = 400.0, 30.0  # mmol/L
K_LYS, KD0, QLAC_UP, KLAC_UP, KSW, EPS = 0.05, 0.02, 0.35, 5.0, 2.0, 0.05
BOUND = 3.0  # on either side of the prior's centre
RTOL, ATOL = 1e-6, 1e-8
# of the problem with 24 clones
COST_AT_TRUTH, COST_AT_PRIOR, OPTIMUM = 1260.1158, 63357.378, 1195.45973
CLOSE = 0.1  # of the optimum: what counts as found


class Screen(NamedTuple):
    """Readings, their noise, starts and volumes fed per clone; parameters in the order shared, then clone by clone."""

    data: np.ndarray  # [C, 15, 7]
    sd: np.ndarray
    y0: np.ndarray  # [C, 8]
    vf: np.ndarray  # [C] L
    theta_true: np.ndarray  # [10 + 4 C]
    prior_mu: np.ndarray
    prior_sd: np.ndarray

    @property
    def clones(self) -> int:
        return len(self.data)

    def lanes(self, theta: np.ndarray) -> np.ndarray:
        """Parameters of every vessel, natural scale [C, 14]."""
        own = theta[10:].reshape(-1, 4)
        return np.exp(np.concatenate([np.broadcast_to(theta[:10], (len(own), 10)), own], axis=1))

    def whitened(self, theta: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """All residuals, readings and then priors; the cost is half their sum of squares."""
        return np.concatenate([((predicted - self.data) / self.sd).ravel(), (theta - self.prior_mu) / self.prior_sd])

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.prior_mu - BOUND, self.prior_mu + BOUND

    def jacobian(self, blocks: np.ndarray) -> csr_matrix:
        """All residuals by all parameters from the derivatives of each vessel's predictions [C, 105, 14] by log."""
        n, size = self.clones, len(self.prior_mu)
        own = 10 + 4 * np.arange(n)[:, None] + np.arange(4)
        columns = np.concatenate([np.tile(np.arange(10), (n, 1)), own], axis=1)
        values = np.append(blocks / self.sd.reshape(n, -1, 1), 1.0 / self.prior_sd)
        places = np.append(np.repeat(columns, 105, axis=0), np.arange(size))
        rows = np.append(14 * np.arange(n * 105), n * 105 * 14 + np.arange(size + 1))
        return csr_matrix((values, places, rows), shape=(n * 105 + size, size))


def rates(t: Any, y: Any, p: Any) -> list[Any]:
    """Change per day of a vessel between two boluses, for numbers of any kind: floats, or traced by JAX."""
    Kg, Kq, KIl, KIa, Yg, Yq, mg, Ya, kdq, Kda, mum, kd, qp, Yl = p
    X, D, G, Q, L, A, _ = y
    mu = mum * G / (Kg + G) * Q / (Kq + Q) * KIl / (KIl + L) * KIa / (KIa + A)
    death = KD0 + kd * A / (Kda + A)
    qg, qq = mu / Yg + mg * G / (EPS + G), mu / Yq
    uptake = QLAC_UP * L / (KLAC_UP + L) * KSW / (KSW + G)
    return [
        (mu - death) * X,
        death * X - K_LYS * D,
        -qg * X,
        -qq * X - kdq * Q,
        (Yl * qg - uptake) * X,
        Ya * qq * X + kdq * Q,
        qp * X,
    ]


def segments() -> list[tuple[float, float, np.ndarray]]:
    """From bolus to bolus: start, end, and the samples on the way (day 0 is in the first)."""
    edges = [0.0, *BOLUS_DAYS, DAYS[-1]]
    last = len(edges) - 2
    return [
        (a, b, DAYS[(a <= DAYS) & (b >= DAYS if i == last else b > DAYS)]) for i, (a, b) in enumerate(pairwise(edges))
    ]


def fed(y: np.ndarray, volume: float, dose: float) -> tuple[np.ndarray, float]:
    """States and volume after a bolus."""
    after = volume + dose
    gained = np.array([0.0, 0.0, FEED_GLC, FEED_GLN, 0.0, 0.0, 0.0]) * dose
    return (y * volume + gained) / after, after


def solved(p: np.ndarray, y0: np.ndarray, dose: float, rtol: float, atol: float) -> np.ndarray:
    """One vessel by SciPy's LSODA, restarted at every bolus, [15, 7]."""
    y, volume, rows, values = np.array(y0[:7]), float(y0[7]), [], tuple(p.tolist())

    def slope(t: float, y: np.ndarray) -> list[float]:
        # plain floats, because arithmetic on single NumPy numbers is several times slower
        return rates(t, y.tolist(), values)

    for i, (a, b, days) in enumerate(segments()):
        if i:
            y, volume = fed(y, volume, dose)
        at = days if len(days) and days[-1] == b else np.append(days, b)
        found = solve_ivp(slope, (a, b), y, method="LSODA", t_eval=at, rtol=rtol, atol=atol)
        rows.append(found.y.T[: len(days)])
        y = found.y[:, -1]
    return np.concatenate(rows)


@lru_cache(maxsize=4)
def screen(clones: int = 24) -> Screen:
    """The screen with a number of clones; the one with 24 is the problem."""
    r = np.random.default_rng(7)
    own = CENTRE_OWN * np.exp(r.normal(0.0, [0.15, 0.25, 0.35, 0.2], (clones, 4)))
    y0 = np.tile([0.4, 0.02, 35.0, 5.0, 1.0, 0.5, 0.0, 1.0], (clones, 1))
    y0[:, 0] *= np.exp(r.normal(0.0, 0.1, clones))
    vf = r.choice([0.03, 0.045, 0.06], clones)
    exact = np.array([solved(np.append(TRUE_SHARED, own[c]), y0[c], float(vf[c]), 1e-10, 1e-12) for c in range(clones)])
    sd = np.sqrt((0.05 * exact) ** 2 + np.array([0.1, 0.05, 0.5, 0.1, 0.5, 0.1, 5.0]) ** 2)
    data = exact + sd * r.normal(size=exact.shape)
    centre = np.concatenate([np.log(TRUE_SHARED) + r.normal(0.0, 0.35, 10), np.tile(np.log(CENTRE_OWN), clones)])
    return Screen(
        data=data,
        sd=sd,
        y0=y0,
        vf=vf,
        theta_true=np.concatenate([np.log(TRUE_SHARED), np.log(own).ravel()]),
        prior_mu=centre,
        prior_sd=np.concatenate([np.ones(10), np.full(4 * clones, 0.4)]),
    )


def starts(s: Screen, count: int) -> list[np.ndarray]:
    """The prior's centre, then draws from the prior, kept within 0.95 of the bounds."""
    drawn = np.random.default_rng(1).normal(0.0, 1.0, (count, len(s.prior_mu)))
    low, high = s.prior_mu - 0.95 * BOUND, s.prior_mu + 0.95 * BOUND
    return [s.prior_mu.copy(), *(np.clip(s.prior_mu + s.prior_sd * z, low, high) for z in drawn)][:count]
