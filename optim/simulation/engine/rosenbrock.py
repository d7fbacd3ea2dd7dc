"""Rodas5P: a Rosenbrock method for stiff systems, order 5(4), L-stable and stiffly accurate.

Coefficients: Steinebach 2023, BIT Numer Math 63:27, in the form of Hairer & Wanner 1996 (Solving ODEs II, IV.7) that
needs no product with the Jacobian: (1/(gamma h) - J) k_i = f(y + sum a_ij k_j) + sum c_ij k_j / h + h d_i f_s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from optim.simulation.engine.rhs import RightHandSide, hold_in_memory, store_stage
from optim.simulation.engine.sparse import Entries, SparseSolver
from optim.simulation.engine.steppers import AbstractStepper, weighted_sum
from optim.types import Array


class Rodas5P(AbstractStepper):
    """Rodas5P, for stiff systems. All eight stages share one LU decomposition; the last is the error estimate."""

    order: ClassVar[int] = 5
    error_order: ClassVar[int] = 5
    stability_limit: ClassVar[float | None] = None
    gamma: ClassVar[float] = 0.21193756319429014
    # from stage 6 on, the state of a stage is that of the stage before plus its increment; so is the result
    a: ClassVar[tuple[tuple[float, ...], ...]] = (
        (),
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946),
    )
    c_matrix: ClassVar[tuple[tuple[float, ...], ...]] = (
        (),
        (-14.155112264123755,),
        (-17.97296035885952, -2.859693295451294),
        (147.12150275711716, -1.41221402718213, 71.68940251302358),
        (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
        (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
        (
            30.91273214028599,
            -3.1208243349937974,
            77.79954646070892,
            34.28646028294783,
            -19.097331116725623,
            -28.087943162872662,
        ),
        (
            37.80277123390563,
            -3.2571969029072276,
            112.26918849496327,
            66.9347231244047,
            -40.06618937091002,
            -54.66780262877968,
            -9.48861652309627,
        ),
    )
    c: ClassVar[tuple[float, ...]] = (
        0.0,
        0.6358126895828704,
        0.4095798393397535,
        0.9769306725060716,
        0.4288403609558664,
        1.0,
        1.0,
        1.0,
    )
    d: ClassVar[tuple[float, ...]] = (
        0.21193756319429014,
        -0.42387512638858027,
        -0.3384627126235924,
        1.8046452872882734,
        2.325825639765069,
        0.0,
        0.0,
        0.0,
    )
    # dense output: y(theta) = y + theta (dy - (1 - theta)(q1 + theta (q2 + theta q3))), q = sum h_ij k_j
    dense: ClassVar[tuple[tuple[float, ...], ...]] = (
        (
            25.948786856663858,
            -2.5579724845846235,
            10.433815404888879,
            -2.3679251022685204,
            0.524948541321073,
            1.1241088310450404,
            0.4272876194431874,
            -0.17202221070155493,
        ),
        (
            -9.91568850695171,
            -0.9689944594115154,
            3.0438037242978453,
            -24.495224566215796,
            20.176138334709044,
            15.98066361424651,
            -6.789040303419874,
            -6.710236069923372,
        ),
        (
            11.419903575922262,
            2.8879645146136994,
            72.92137995996029,
            80.12511834622643,
            -52.072871366152654,
            -59.78993625266729,
            -0.15582684282751913,
            4.883087185713722,
        ),
    )

    def step(self, rhs: RightHandSide, y: Array, *, s: Array, h: Array) -> tuple[Array, Sequence[Array]]:
        stages, new = self._stages(rhs, s, y, h)
        return new, jax.lax.stop_gradient(stages[-1])

    def pull_back(
        self, rhs: RightHandSide, y: Array, bar: Array, *, s: Array, h: Array
    ) -> tuple[Array, tuple[Array, ...]]:
        stages, _ = self._stages(rhs, s, y, h)
        inverse = 1.0 / h
        by_s, entries = rhs.jacobian(s, y)
        solver = SparseSolver(_matrix(entries, inverse / self.gamma, y.shape[0]), y.shape[0])
        states, pulls = self._states(), _square(self.c_matrix)
        result = states[7] + np.eye(8)[7]
        back = jnp.asarray(np.column_stack([self.c, self.d, result, states, states.T, pulls.T]), y.dtype)

        def _stage(n: Array, carried: Any) -> Any:
            bars, right_bars, s_bar, entry_bars, frozen_bar = carried
            i = 7 - n
            row = back[i]
            k_bar = row[2] * bar + weighted_sum(row[11:19], bars) + inverse * weighted_sum(row[19:], right_bars)
            right = hold_in_memory(solver.solve_transposed(hold_in_memory(k_bar)))
            at = hold_in_memory(y + weighted_sum(row[3:11], stages))
            at_bar, change = rhs.pull_back(s + row[0] * h, at, right)
            k = jax.lax.dynamic_index_in_dim(stages, i, keepdims=False)
            return (
                store_stage(bars, i, at_bar),
                store_stage(right_bars, i, right),
                None if s_bar is None else tuple(a + row[1] * h * b for a, b in zip(s_bar, right, strict=True)),
                {(a, b): value + right[a] * k[b] for (a, b), value in entry_bars.items()},
                tuple(a + b for a, b in zip(frozen_bar, change, strict=True)),
            )

        none, zero = jnp.zeros((8, *y.shape), y.dtype), jnp.zeros_like(s)
        start = (
            none,
            none,
            None if by_s is None else (zero,) * y.shape[0],
            dict.fromkeys(entries, zero),
            (zero,) * len(rhs.frozen),
        )
        bars, _, s_bar, entry_bars, frozen_bar = jax.lax.fori_loop(0, 8, _stage, start)
        of_matrix, change = rhs.pull_back_jacobian(s, y, by_s=s_bar, entries=entry_bars)
        frozen_bar = tuple(a + b for a, b in zip(frozen_bar, change, strict=True))
        return bar + sum(bars) + jnp.stack(of_matrix), frozen_bar

    def interpolate(self, rhs: RightHandSide, y: Array, theta: Array, *, s: Array, h: Array) -> Array:
        """Dense output: the states [N', L] at s + theta h for theta [L] in 0..1, of order 4."""
        stages, new = self._stages(rhs, s, y, h)
        q = [weighted_sum(row, stages) for row in self.dense]
        bend = (1.0 - theta) * (q[0] + theta * (q[1] + theta * q[2]))
        return y * (1.0 - theta) + theta * (new + bend)

    def _stages(self, rhs: RightHandSide, s: Array, y: Array, h: Array) -> tuple[Array, Array]:
        inverse = 1.0 / h
        by_s, entries = rhs.jacobian(s, y)
        solver = SparseSolver(_matrix(entries, inverse / self.gamma, y.shape[0]), y.shape[0])
        table = jnp.asarray(np.column_stack([self.c, self.d, self._states(), _square(self.c_matrix)]), y.dtype)

        def _stage(i: Array, stages: Array) -> Array:
            row = table[i]
            at = hold_in_memory(y + weighted_sum(row[2:10], stages))
            pull = inverse * weighted_sum(row[10:18], stages)
            if by_s is not None:
                pull = pull + (row[1] * h) * by_s
            right = [slope + pull[k] for k, slope in enumerate(rhs(s + row[0] * h, at))]
            return store_stage(stages, i, solver.solve(hold_in_memory(right)))

        stages = jax.lax.fori_loop(0, 8, _stage, jnp.zeros((8, *y.shape), y.dtype))
        return stages, y + weighted_sum([float(w) for w in self._states()[7]], stages) + stages[7]

    def _states(self) -> np.ndarray:
        """Weights of the stages in the state of every stage."""
        rows = _square(self.a)
        for i in (6, 7):
            rows[i] = rows[i - 1] + np.eye(8)[i - 1]
        return rows


def _matrix(entries: Entries, diagonal: Array, n: int) -> Entries:
    """1/(gamma h) - J."""
    matrix: Entries = {ij: -value for ij, value in entries.items()}
    for i in range(n):
        matrix[i, i] = matrix[i, i] + diagonal if (i, i) in matrix else diagonal
    return matrix


def _square(rows: Sequence[tuple[float, ...]]) -> np.ndarray:
    table = np.zeros((8, 8))
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
