"""Accusations of single vessels, withheld where most vessels are accused alike, or where the model is wrong.

A vessel is accused when it deviates from the model while the others do not. Where the model describes nobody, or most
deviate, the fault is theirs in common or the model's.
"""

from __future__ import annotations

import numpy as np

from optim.estimation.data_quality.finding import SEVERITIES, Finding, join_names
from optim.estimation.data_quality.robust_fit import RobustFit
from optim.estimation.misfit import Misfit, find_misfits
from optim.estimation.predictive import observation_bands

# kinds of findings that judge readings by the model
ACCUSATIONS = ("dead probe", "wrong unit", "off by a factor", "one-sided", "outlier", "vessel does not fit")
OF_ONE_ASSAY = ("dead probe", "wrong unit", "off by a factor", "one-sided")
MOST = 0.6  # fraction of the vessels that have an assay from which on they are accused alike


def withhold_accusations(findings: list[Finding], r: RobustFit, excluded: np.ndarray) -> list[Finding]:
    """Findings with one sentence in the place of accusations that the model, or their number, does not support.

    Args:
        findings: all of them.
        r: the last robust fit.
        excluded: [B, M] readings that were left out of it, since they seem faulty.
    """
    wrong = undescribed_assays(r, excluded)
    if wrong:
        accused = [f for f in findings if f.kind in ACCUSATIONS]
        if not accused:
            return findings
        named = "; ".join(f"{m.variable}: {m.reason}" for m in wrong)
        number = f"{len(accused)} findings about them are" if len(accused) > 1 else "one finding about them is"
        statement = (
            f"the model does not describe these data even without the readings that seem faulty beside it ({named}), "
            f"so single vessels and readings are not judged by it: {number} withheld; look at the start, the media, "
            "the feeds and the model first"
        )
        return [f for f in findings if f not in accused] + [_one(accused, "model is wrong", "", statement)]
    for name in r.problem.variables:
        own = [f for f in findings if f.kind in OF_ONE_ASSAY and f.variable == name and f.vessel]
        vessels = list(dict.fromkeys(f.vessel for f in own))
        having = np.sum((r.use & (r.problem.vessels.variable == r.problem.variables.index(name))).any(axis=1))
        if len(vessels) < 2 or len(vessels) < MOST * having:
            continue
        gravest = min(own, key=lambda f: SEVERITIES.index(f.severity))
        statement = (
            f"{name} deviates from the model in {len(vessels)} of {having} vessels ({join_names(vessels)}), so no "
            "single one is accused: either all have one fault, such as a unit, a dilution or a calibration, or the "
            f"model is wrong. For example: {gravest.statement}"
        )
        findings = [f for f in findings if f not in own] + [_one(own, gravest.kind, name, statement)]
    return findings


def undescribed_assays(r: RobustFit, excluded: np.ndarray) -> tuple[Misfit, ...]:
    """Assays that a robust fit does not describe, readings that seem faulty left out."""
    seen = observation_bands(r.posterior, r.predicted, np.zeros_like(r.predicted), mask=r.uncensored & ~excluded)
    return find_misfits(seen, dict(zip(r.problem.variables, (float(s) for s in r.scale), strict=True)))


def _one(accused: list[Finding], kind: str, variable: str, statement: str) -> Finding:
    """One finding in the place of several, as grave as the gravest."""
    severity = min((f.severity for f in accused), key=SEVERITIES.index)
    return Finding(kind, severity, "", variable, None, statement)
