"""Recombinant AAV from HEK293 cells by transfection with three plasmids.

Source: Nguyen et al. 2021, Mol Ther Methods Clin Dev 21:642, equations and values of the authors' repository. Plasmid
is taken up, escapes from endosomes and enters the nucleus; Rep and capsid protein are made, 60 of the latter assemble
to an empty capsid; Rep copies the vector's DNA, binds to capsids and packs the DNA. All of it per cell; cells grow
towards a plateau, which thins out what is inside them. Deviation: the source gives cells as a function of time; here
they are a state with the same course, exact for a start at 1e9 cells/L; from any start they approach the same plateau.

Assembly and export are near-instantaneous in the source (1e5 1/h): integrate with an implicit method.

Plasmid outside the cells is given per cell. Feeds and samples do not change it; an exchange of medium takes it away.
The source removes all of it at 6 h: an integration that is to reproduce it sets RC_E, Vec_E and Hel_E to zero there.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.types import Scalar


class State(NamedTuple):
    """Xv in 1e9 cells/L, all else in copies/cell. RC: rep/cap, Vec: vector, Hel: helper plasmid."""

    Xv: Scalar
    RC_E: Scalar  # outside the cell
    RC_N: Scalar  # in endosomes
    RC_C: Scalar  # in the cytosol
    RC_U: Scalar  # in the nucleus
    Vec_E: Scalar
    Vec_N: Scalar
    Vec_C: Scalar
    Vec_U: Scalar
    Hel_E: Scalar
    Hel_N: Scalar
    Hel_C: Scalar
    Hel_U: Scalar
    Rep: Scalar
    Cap: Scalar  # capsid protein
    DNA: Scalar  # genomes not packed
    empty_U: Scalar  # empty capsids in the nucleus
    full_U: Scalar
    empty_C: Scalar  # empty capsids in the cytosol
    full_C: Scalar
    RepRC: Scalar  # complex of Rep and rep/cap plasmid
    RepCap: Scalar  # complex of Rep and empty capsid


class Parameters(NamedTuple):
    """First-order rates per hour; rates of a second reactant per copy in the cell."""

    k1: Scalar  # 1/h, uptake of plasmid
    k2: Scalar  # 1/h, escape from endosomes
    k3: Scalar  # 1/h, entry into the nucleus
    k4: Scalar  # 1/h, decay of plasmid
    k5: Scalar  # cell/copies/h, synthesis of Rep
    k6: Scalar  # cell/copies/h, synthesis of capsid protein
    k7: Scalar  # 1/h, decay of Rep
    k8: Scalar  # 1/h, decay of capsid protein
    k9: Scalar  # cell^2/copies^2/h, replication
    k10: Scalar  # cell/copies/h, binding of Rep to rep/cap plasmid
    k11: Scalar  # 1/h, assembly
    k12: Scalar  # cell/copies/h, binding of Rep to empty capsids
    k13: Scalar  # cell/copies/h, packaging
    k14: Scalar  # 1/h, export from the nucleus
    g1: Scalar  # 1e9 cells/L/h, growth at transfection
    g2: Scalar  # 1/h, its decline


PROTEINS_PER_CAPSID = 60.0
TRANSFECTION_DENSITY = 1.0  # 1e9 cells/L, where growth is g1 (source)
PER_LITRE = 1e-3  # 1e12/L from copies/cell and 1e9 cells/L


class RaavNguyen(AbstractKineticModel):
    """Three plasmids, Rep, capsid protein, genomes, empty and full capsids: 21 states per cell, and the cells."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    # scales: the largest values in the source's process, to a power of ten
    species: ClassVar[tuple[Species, ...]] = (
        Species("Xv", "1e9 cells/L", 1.0),
        Species("RC_E", "copies/cell", 1e5, dilutes=False, starts_as="plasmid_rep_cap", required=True, washed_out=True),
        Species("RC_N", "copies/cell", 1e2, dilutes=False),
        Species("RC_C", "copies/cell", 1e2, dilutes=False),
        Species("RC_U", "copies/cell", 1.0, dilutes=False),
        Species("Vec_E", "copies/cell", 1e5, dilutes=False, starts_as="plasmid_vector", required=True, washed_out=True),
        Species("Vec_N", "copies/cell", 1e2, dilutes=False),
        Species("Vec_C", "copies/cell", 1e2, dilutes=False),
        Species("Vec_U", "copies/cell", 10.0, dilutes=False),
        Species("Hel_E", "copies/cell", 1e5, dilutes=False, starts_as="plasmid_helper", required=True, washed_out=True),
        Species("Hel_N", "copies/cell", 1e2, dilutes=False),
        Species("Hel_C", "copies/cell", 1e2, dilutes=False),
        Species("Hel_U", "copies/cell", 10.0, dilutes=False),
        Species("Rep", "copies/cell", 1e5, dilutes=False),
        Species("Cap", "copies/cell", 1e-2, dilutes=False),
        Species("DNA", "copies/cell", 1e3, dilutes=False),
        Species("empty_U", "copies/cell", 1e-2, dilutes=False),
        Species("full_U", "copies/cell", 1e-4, dilutes=False),
        Species("empty_C", "copies/cell", 1e4, dilutes=False),
        Species("full_C", "copies/cell", 1e2, dilutes=False),
        Species("RepRC", "copies/cell", 10.0, dilutes=False),
        Species("RepCap", "copies/cell", 1e2, dilutes=False),
    )
    stiff: ClassVar[bool] = True
    product: ClassVar[str] = "vector_genomes"
    inoculum: ClassVar[Inoculum] = Inoculum("vcd", {"Xv": 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ("plasmid_rep_cap", "plasmid_vector", "plasmid_helper")

    def rates(self, p: Parameters, c: State, env: Environment) -> State:
        growth = p.g1 - p.g2 * (c.Xv - TRANSFECTION_DENSITY)
        mu = growth / c.Xv

        def _delivery(outside: Scalar, endosome: Scalar, cytosol: Scalar, nucleus: Scalar) -> tuple[Scalar, ...]:
            return (
                -p.k1 * outside,
                p.k1 * outside - (p.k2 + p.k4 + mu) * endosome,
                p.k2 * endosome - (p.k3 + p.k4 + mu) * cytosol,
                p.k3 * cytosol - (p.k4 + mu) * nucleus,
            )

        rc_e, rc_n, rc_c, rc_u = _delivery(c.RC_E, c.RC_N, c.RC_C, c.RC_U)
        vec_e, vec_n, vec_c, vec_u = _delivery(c.Vec_E, c.Vec_N, c.Vec_C, c.Vec_U)
        hel_e, hel_n, hel_c, hel_u = _delivery(c.Hel_E, c.Hel_N, c.Hel_C, c.Hel_U)
        repress = p.k10 * c.RC_U * c.Rep
        express = c.RC_U * c.Hel_U
        assemble = p.k11 * c.Cap
        dock = p.k12 * c.Rep * c.empty_U
        pack = p.k13 * c.RepCap * c.DNA
        return State(
            Xv=growth,
            RC_E=rc_e,
            RC_N=rc_n,
            RC_C=rc_c,
            RC_U=rc_u - repress,
            Vec_E=vec_e,
            Vec_N=vec_n,
            Vec_C=vec_c,
            Vec_U=vec_u,
            Hel_E=hel_e,
            Hel_N=hel_n,
            Hel_C=hel_c,
            Hel_U=hel_u,
            Rep=p.k5 * express - repress - dock + pack - (p.k7 + mu) * c.Rep,
            Cap=p.k6 * express - PROTEINS_PER_CAPSID * assemble - (p.k8 + mu) * c.Cap,
            DNA=p.k9 * c.Rep * c.Vec_U * c.Hel_U - pack - mu * c.DNA,
            empty_U=assemble - dock - (p.k14 + mu) * c.empty_U,
            full_U=pack - (p.k14 + mu) * c.full_U,
            empty_C=p.k14 * c.empty_U - mu * c.empty_C,
            full_C=p.k14 * c.full_U - mu * c.full_C,
            RepRC=repress,
            RepCap=dock - pack,
        )

    def observe(self, p: Parameters, c: State, env: Environment) -> dict[str, Scalar]:
        full = c.full_U + c.full_C
        inside = c.Vec_N + c.Vec_C + c.Vec_U + c.DNA + full  # the assay does not tell plasmid from genome
        return {
            "vcd": c.Xv,
            "vector_dna": inside * c.Xv * PER_LITRE,
            "vector_genomes": full * c.Xv * PER_LITRE,
            "capsids": (c.empty_U + c.empty_C + full) * c.Xv * PER_LITRE,
        }
