"""Published problems of feeding: the models as their papers write them, and the vessel around them.

Park-Ramirez: AIChE J 34 (1988) 1550. Lee-Ramirez: AIChE J 40 (1994) 899, with the parameters of Tholudur & Ramirez
(1997). Penicillin (Bajpai-Reuss kinetics): Cuthrell & Biegler, Comput Chem Eng 13 (1989) 49. Ethanol: Chen & Hwang,
Ind Eng Chem Res 29 (1990) 1869. Hybridoma, two feeds: de Tremblay et al., Bioprocess Eng 7 (1992) 229, as in Roubos et
al. 1999.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.optimal_control.problem import ControlLimit, ControlProblem, ControlProfile, TerminalState
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.stiffness import stepper_for
from optim.types import Scalar


class NoParameters(NamedTuple):
    """All numbers are the paper's; this one scales all rates, and is 1."""

    one: Scalar


class Published(AbstractKineticModel):
    """What all models here share: no parameters to fit, no assays, a start that is given."""

    Parameters: ClassVar[Any] = NoParameters
    inoculum: ClassVar[Inoculum] = Inoculum("", {"X": 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ()

    def observe(self, p: NoParameters, c: Any, env: Environment) -> dict[str, Scalar]:
        return dict(zip(self.names(), c, strict=True))


class ProteinState(NamedTuple):
    Pm: Scalar  # secreted protein
    Pt: Scalar  # total protein
    X: Scalar
    S: Scalar


class ParkRamirez(Published):
    """Secreted protein of yeast."""

    State: ClassVar[Any] = ProteinState
    species: ClassVar[tuple[Species, ...]] = tuple(Species(n, "g/L", 1.0) for n in ProteinState._fields)

    def rates(self, p: NoParameters, c: ProteinState, env: Environment) -> ProteinState:
        mu = 21.87 * c.S / ((c.S + 0.4) * (c.S + 62.5))
        expression = c.S * jnp.exp(-5.0 * c.S) / (0.1 + c.S)
        secretion = 4.75 * mu / (0.12 + mu)
        return ProteinState(secretion * (c.Pt - c.Pm), expression * c.X, mu * c.X, -7.3 * mu * c.X)


class InductionState(NamedTuple):
    X: Scalar
    S: Scalar
    P: Scalar
    I: Scalar  # noqa: E741  (the inducer, as in the paper)
    a: Scalar  # of the cells: shock and recovery factors
    b: Scalar


class LeeRamirez(Published):
    """Induced foreign protein of E. coli; the inducer has a price."""

    State: ClassVar[Any] = InductionState
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "g/L", 1.0),
        Species("S", "g/L", 10.0),
        Species("P", "g/L", 1.0),
        Species("I", "g/L", 1.0),
        Species("a", "-", 1.0, dilutes=False),
        Species("b", "-", 1.0, dilutes=False),
    )

    def rates(self, p: NoParameters, c: InductionState, env: Environment) -> InductionState:
        q = c.S / (14.35 + c.S + c.S**2 / 111.5)
        mu = q * (c.a + 0.22 * c.b / (0.22 + c.I))
        r = 0.233 * q * (0.0005 + c.I) / (0.022 + c.I)
        k = 0.09 * c.I / (0.034 + c.I)
        return InductionState(mu * c.X, -mu * c.X / 0.51, r * c.X, 0.0 * c.I, -k * c.a, k * (1.0 - c.b))


class PenicillinState(NamedTuple):
    X: Scalar
    P: Scalar
    S: Scalar


class Penicillin(Published):
    """Bajpai-Reuss kinetics: Contois growth, product inhibited by its substrate."""

    State: ClassVar[Any] = PenicillinState
    stiff: ClassVar[bool] = True
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "g/L", 10.0),
        Species("P", "g/L", 1.0),
        Species("S", "g/L", 0.05),
    )

    def rates(self, p: NoParameters, c: PenicillinState, env: Environment) -> PenicillinState:
        mu = 0.11 * c.S / (0.006 * c.X + c.S)
        rho = 0.0055 * c.S / (0.0001 + c.S * (1.0 + 10.0 * c.S))
        maintenance = 0.029 * c.S / (0.0001 + c.S)
        return PenicillinState(mu * c.X, rho * c.X - 0.01 * c.P, -(mu / 0.47 + rho / 1.2 + maintenance) * c.X)


class EthanolState(NamedTuple):
    X: Scalar
    S: Scalar
    P: Scalar


class Ethanol(Published):
    """Ethanol of yeast, which it inhibits."""

    State: ClassVar[Any] = EthanolState
    stiff: ClassVar[bool] = True
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "g/L", 10.0),
        Species("S", "g/L", 1.0),
        Species("P", "g/L", 10.0),
    )

    def rates(self, p: NoParameters, c: EthanolState, env: Environment) -> EthanolState:
        mu = 0.408 / (1.0 + c.P / 16.0) * c.S / (0.22 + c.S)
        production = 1.0 / (1.0 + c.P / 71.5) * c.S / (0.44 + c.S)
        return EthanolState(mu * c.X, -10.0 * mu * c.X, production * c.X)


class HybridomaState(NamedTuple):
    X: Scalar  # viable cells, 1e8 cells/L
    Glc: Scalar
    Gln: Scalar
    Lac: Scalar
    Amm: Scalar
    mAb: Scalar


class Hybridoma(Published):
    """Antibody of hybridoma cells. The paper counts in days, the vessel in hours."""

    State: ClassVar[Any] = HybridomaState
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "1e8 cells/L", 5.0),
        Species("Glc", "mmol/L", 5.0),
        Species("Gln", "mmol/L", 1.0),
        Species("Lac", "mmol/L", 10.0),
        Species("Amm", "mmol/L", 2.0),
        Species("mAb", "mg/L", 50.0),
    )

    def rates(self, p: NoParameters, c: HybridomaState, env: Environment) -> HybridomaState:
        mu = 1.09 * c.Glc / (1.0 + c.Glc) * c.Gln / (0.3 + c.Gln)
        death = 0.69 / ((1.09 - 0.01 * c.Lac) * (1.09 - 0.06 * c.Amm)) * 0.02 / (0.02 + c.Gln)
        glutamine = mu / 3.8
        glucose = mu / 1.09 + 0.17 * c.Glc / (19.0 + c.Glc)
        antibody = 2.57 * mu / (0.02 + mu) + 0.35
        per_day = (mu - death, -glucose, -glutamine, 1.8 * glucose, 0.85 * glutamine, antibody)
        return HybridomaState(*(rate * c.X / 24.0 for rate in per_day))


@dataclass(frozen=True)
class Case:
    """One problem: where it starts, what may be chosen, the naive constant feed, and what the peer reached at N."""

    model: AbstractKineticModel
    start: tuple[float, ...]
    volume: float
    composition: tuple[tuple[float, ...], ...]
    upper: tuple[float, ...]  # L/h of every feed; the lower bound is 0
    hours: tuple[float, float]
    value: Callable[[TerminalState], Scalar]
    limits: tuple[ControlLimit, ...]
    naive: tuple[float, ...]  # L/h
    peer: dict[int, float]  # CasADi 3.8 + IPOPT, as published with the problem statement
    published: str

    def problem(self, intervals: int, rtol: float = 1e-7) -> ControlProblem:
        """The problem with so many intervals."""
        return ControlProblem(
            model=self.model,
            parameters=np.ones(1),
            initial=np.array(self.start),
            volume_l=self.volume,
            composition=np.array(self.composition),
            profiles=tuple(ControlProfile(f"feed {j + 1}", 0.0, u, j) for j, u in enumerate(self.upper)),
            intervals=intervals,
            hours=self.hours,
            value=self.value,
            limits=self.limits,
            integrator=Integrator(stepper_for(self.model), rtol=rtol, atol=0.1 * rtol, max_steps=4000),
        )


def _volume(limit: float) -> ControlLimit:
    return ControlLimit("volume", lambda c, v: v, "max", limit, "end")


def _product(end: TerminalState) -> Scalar:
    return end.state.P * end.volume


def _lee(price: float, peer: dict[int, float], published: str) -> Case:
    return Case(
        LeeRamirez(), (0.1, 40.0, 0.0, 0.0, 1.0, 0.0), 1.0,
        ((0.0, 100.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 4.0, 0.0, 0.0)), (1.0, 1.0), (10.0, 10.0),
        lambda end: _product(end) - price * end.fed[1], (), (0.1, 0.1), peer, published,
    )  # fmt: skip


def _penicillin(hours: tuple[float, float], peer: dict[int, float], published: str) -> Case:
    limits = (
        ControlLimit("biomass", lambda c, v: c.X, "max", 40.0),
        ControlLimit("substrate", lambda c, v: c.S, "max", 25.0),
        ControlLimit("volume", lambda c, v: v, "max", 10.0),
    )
    return Case(
        Penicillin(), (1.5, 0.0, 0.0), 7.0, ((0.0, 0.0, 500.0),), (0.1,), hours, _product, limits,
        (11.0 / 500.0,), peer, published,
    )  # fmt: skip


def _ethanol(hours: tuple[float, float], peer: dict[int, float], published: str) -> Case:
    return Case(
        Ethanol(), (1.0, 150.0, 0.0), 10.0, ((0.0, 150.0, 0.0),), (12.0,), hours, _product, (_volume(200.0),),
        (190.0 / 54.0,), peer, published,
    )  # fmt: skip


CASES: dict[str, Case] = {
    "park_ramirez": Case(
        ParkRamirez(), (0.0, 0.0, 1.0, 5.0), 1.0, ((0.0, 0.0, 0.0, 20.0),), (2.0,), (15.0, 15.0),
        lambda end: end.state.Pm * end.volume, (), (0.5,),
        {20: 32.4547, 50: 32.5124, 100: 32.6815}, "32.47..32.73",
    ),
    "lee_ramirez_q0": _lee(0.0, {20: 6.15084, 50: 6.15153}, "6.15123 at N=25"),
    "lee_ramirez_q2.5": _lee(2.5, {20: 5.75684, 50: 5.75711, 100: 5.75711}, "5.75704 at N=25"),
    "lee_ramirez_q5": _lee(5.0, {20: 5.56780, 50: 5.56788, 100: 5.56789}, "5.568"),
    "penicillin_free": _penicillin((72.0, 200.0), {20: 88.0576, 50: 88.0939, 100: 88.0363}, "87.9..88.3"),
    "penicillin_126h": _penicillin((126.0, 126.0), {20: 87.8171, 50: 87.8397, 100: 87.8441}, "87.69"),
    "ethanol_54h": _ethanol((54.0, 54.0), {20: 20411.2, 50: 20444.2, 100: 20444.9}, "20437 at N=25"),
    "ethanol_free": _ethanol((40.0, 90.0), {20: 20778.5, 50: 20840.9, 100: 20841.3}, "20841"),
    "hybridoma": Case(
        Hybridoma(), (2.0, 25.0, 4.0, 0.0, 0.0, 0.0), 0.79,
        ((0.0, 25.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 4.0, 0.0, 0.0, 0.0)), (0.5 / 24.0, 0.5 / 24.0), (240.0, 240.0),
        lambda end: end.state.mAb * end.volume, (_volume(2.0),), (0.06 / 24.0, 0.06 / 24.0),
        {20: 397.391, 50: 398.237, 100: 398.318}, "about 390",
    ),
}  # fmt: skip
