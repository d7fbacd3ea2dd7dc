"""CasADi + IPOPT in its best setting: Radau collocation of degree 3, one element per interval, simulated first guess.

Needs `pip install casadi`. Values are re-simulated by the same independent SciPy code as optim's.
"""

from __future__ import annotations

import time

import casadi as ca
import numpy as np
from problems import CASES
from resimulate import MODELS, resimulated
from scipy.integrate import solve_ivp

OPTIONS = {"ipopt.print_level": 0, "print_time": False, "ipopt.sb": "yes", "ipopt.max_iter": 1000, "ipopt.tol": 1e-8}


def solved(name: str, intervals: int, starts: int = 12, seed: int = 0) -> dict:
    """Best re-simulated value from random starts, the share within 0.1 % of it, and seconds of CPU per start."""
    case = CASES[name]
    rates, x0, value, limits = MODELS[name if name in MODELS else name.rsplit("_", 1)[0]]
    n, m = len(x0), len(case.upper)
    begin = time.process_time()
    solver, size, box = _transcribed(rates, np.array(x0, float), value, limits, case, intervals)
    building = time.process_time() - begin
    rng = np.random.default_rng(seed)
    values, seconds = [], []
    for _ in range(starts):
        u = rng.uniform(0.0, 1.0, (intervals, m)) * rng.uniform(0.05, 1.0) * np.array(case.upper)
        hours = rng.uniform(*case.hours) if case.hours[1] > case.hours[0] else case.hours[0]
        guess = _guess(rates, np.array(x0, float), u, hours)
        if guess is None:
            continue
        begin = time.process_time()
        found = solver(x0=np.concatenate([guess, u.ravel(), [hours]]), **box)
        seconds.append(time.process_time() - begin)
        w = np.array(found["x"]).ravel()
        controls, end = w[size : size + intervals * m].reshape(intervals, m), float(w[-1])
        worth, violation = resimulated(name, np.clip(controls, 0.0, case.upper), end)
        if solver.stats()["success"] and violation < 1e-4:
            values.append(worth)
    best = max(values, default=float("nan"))
    share = float(np.sum(np.array(values) >= best * (1 - 1e-3)) / starts)
    return {"value": best, "share": share, "cpu": float(np.mean(seconds)), "building": building, "states": n}


def _transcribed(rates, x0, value, limits, case, intervals):
    n, m = len(x0), len(case.upper)
    x, u = ca.SX.sym("x", n), ca.SX.sym("u", m)
    right = rates(ca.vertsplit(x), np.array(ca.vertsplit(u), dtype=object))
    f = ca.Function("f", [x, u], [ca.vertcat(*right)])
    tau = [0.0, *ca.collocation_points(3, "radau")]
    c, _, _ = ca.collocation_coeff(tau[1:])
    states = [ca.MX.sym(f"x{k}", n, 3) for k in range(intervals)]
    controls = [ca.MX.sym(f"u{k}", m) for k in range(intervals)]
    hours = ca.MX.sym("hours")
    equations, before = [], ca.MX(x0)
    for k in range(intervals):
        slopes = ca.horzcat(before, states[k]) @ c
        stages = ca.horzcat(*(f(states[k][:, j], controls[k]) for j in range(3)))
        equations.append(ca.vec(hours / intervals * stages - slopes))
        before = states[k][:, 2]  # the last point of Radau is the end
    fed = sum(controls[1:], controls[0]) * hours / intervals
    goal = -value(ca.vertsplit(before), ca.vertsplit(fed))
    variables = ca.vertcat(*(ca.vec(s) for s in states), *controls, hours)
    upper = np.full((intervals, 3, n), np.inf)
    for i, limit, along in limits:
        if along:
            upper[:, :, i] = limit
        else:
            upper[-1, -1, i] = limit
    low = np.concatenate([np.zeros(intervals * 3 * n), np.zeros(intervals * m), [case.hours[0]]])
    high = np.concatenate([upper.ravel(), np.tile(case.upper, intervals), [case.hours[1]]])
    solver = ca.nlpsol("s", "ipopt", {"x": variables, "f": goal, "g": ca.vertcat(*equations)}, OPTIONS)
    return solver, intervals * 3 * n, {"lbx": low, "ubx": high, "lbg": 0.0, "ubg": 0.0}


def _guess(rates, x0, controls, hours):
    places = np.array(ca.collocation_points(3, "radau")) * hours / len(controls)
    x, rows = x0, []
    for u in controls:
        found = solve_ivp(lambda t, x, u=u: rates(x, u), (0.0, places[-1]), x, "LSODA", t_eval=places, rtol=1e-6)
        if not found.success:
            return None
        rows.append(np.maximum(found.y.T, 0.0).ravel())
        x = found.y[:, -1]
    return np.concatenate(rows)
