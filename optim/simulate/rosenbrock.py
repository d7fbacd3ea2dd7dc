"""Rodas5P: a Rosenbrock method for stiff systems, order 5(4), L-stable and stiffly accurate.

Coefficients: Steinebach 2023, BIT Numer Math 63:27, in the form of Hairer & Wanner 1996 (Solving ODEs II, IV.7) that
needs no product with the Jacobian: (1/(gamma h) - J) k_i = f(y + sum a_ij k_j) + sum c_ij k_j / h + h d_i f_s.
"""

from __future__ import annotations

from typing import ClassVar

from optim.simulate.integrators import AbstractStepper, RightHandSide, materialise
from optim.simulate.sparse import Entries, Solver, columns, dependence, jacobian
from optim.types import Scalar, StateTuple


class Rodas5P(AbstractStepper):
    """One matrix and its factors serve eight stages; the last stage is the estimate of the local error."""

    order: ClassVar[int] = 5
    error_order: ClassVar[int] = 5
    stable: ClassVar[float | None] = None
    gamma: ClassVar[float] = 0.21193756319429014
    # the state of each stage from 6 on is that of the stage before plus its increment, and so is the result
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

    def step(self, rhs: RightHandSide, s: Scalar, y: StateTuple, h: Scalar) -> tuple[StateTuple, StateTuple]:
        stages, new = self._stages(rhs, s, y, h)
        return new, stages[-1]

    def interpolate(self, rhs: RightHandSide, s: Scalar, y: StateTuple, h: Scalar, theta: Scalar) -> StateTuple:
        """The state at s + theta h, theta in [0, 1], of order 4 within the step."""
        stages, new = self._stages(rhs, s, y, h)
        out = []
        for i, (before, after) in enumerate(zip(y, new, strict=True)):
            q = [sum(w * k[i] for w, k in zip(row, stages, strict=True)) for row in self.dense]
            bend = (1.0 - theta) * (q[0] + theta * (q[1] + theta * q[2]))
            out.append(before * (1.0 - theta) + theta * (after + bend))
        return tuple(out)

    def _stages(self, rhs: RightHandSide, s: Scalar, y: StateTuple, h: Scalar) -> tuple[list[StateTuple], StateTuple]:
        n = len(y)
        inverse = 1.0 / h
        f_s, entries = self._derivatives(rhs, s, y)
        matrix: Entries = {ij: -value for ij, value in entries.items()}
        for i in range(n):
            diagonal = inverse * (1.0 / self.gamma)
            matrix[i, i] = matrix[i, i] + diagonal if (i, i) in matrix else diagonal
        solver = Solver(matrix, n)
        stages: list[StateTuple] = []
        at = y
        for stage in range(8):
            if 0 < stage < 6:
                at = tuple(
                    v + sum(w * k[i] for w, k in zip(self.a[stage], stages, strict=True)) for i, v in enumerate(y)
                )
            elif stage:
                at = tuple(v + k for v, k in zip(at, stages[-1], strict=True))
            at = materialise(at)
            right = []
            for i, slope in enumerate(rhs(s + self.c[stage] * h, at)):
                if stage:
                    pull = sum(w * k[i] for w, k in zip(self.c_matrix[stage], stages, strict=True))
                    slope = slope + inverse * pull
                if self.d[stage] and f_s[i] is not None:
                    slope = slope + h * self.d[stage] * f_s[i]
                right.append(slope)
            stages.append(materialise(solver.solve(materialise(tuple(right)))))
        return stages, tuple(v + k for v, k in zip(at, stages[-1], strict=True))

    def _derivatives(self, rhs: RightHandSide, s: Scalar, y: StateTuple) -> tuple[list[Scalar | None], Entries]:
        """Derivatives of the right-hand side by s and by the state, as far as it depends on them."""
        n = len(y)
        found = dependence(lambda s, y: rhs(s, y), (s, y))
        by_s, *by_y = columns(found, n + 1)
        entries = jacobian(lambda at: rhs(s, at), y, by_y)
        moved = jacobian(lambda at: rhs(at[0], y), (s,), [by_s])
        return [moved.get((i, 0)) for i in range(n)], entries
