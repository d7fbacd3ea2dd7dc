"""The plot of a running batch planned anew: readings, both plans with bands, what was given and is to be given."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from optim.replanning.result import Replan
from optim.report.plots import BLUE, GREY, INK, ORANGE, STYLE, _grid, drawn_feeds


def replan(r: Replan) -> Figure:
    """A panel per assay, volume and temperature, and one for the feed; days, or hours for a short process."""
    s = r.replanned.trajectory
    days = float(s.time_h.max()) > 72.0
    scale = 24.0 if days else 1.0
    names = list(s.names)
    title = f"Run {r.run}, {'day' if days else 'hour'} {r.now_h / scale:.3g}: plan and plan made anew"
    figure, axes = _grid(len(names) + 2, title, r.lineage.simulated, 2.6, 1.9)
    for name, a in zip(names, axes, strict=False):
        _course(r, name, a, scale)
    _feed(r, axes[-2], scale)
    axes[-2].set_xlim(axes[0].get_xlim())
    _legend(axes[-1])
    for a in axes[:-1]:
        a.axvline(r.now_h / scale, color=INK, linewidth=0.8, linestyle=":")
    axes[len(names)].set_xlabel("day" if days else "h", fontsize=STYLE["small"])
    return figure


def _course(r: Replan, name: str, a: Axes, scale: float) -> None:
    for process, colour, front in ((r.plan, GREY, 2), (r.replanned, BLUE, 3)):
        s = process.trajectory
        i = s.names.index(name)
        t = s.time_h / scale
        if name == "temperature":
            a.step(t, s.p50[i], where="pre", color=colour, linewidth=1.4, zorder=front)
            continue
        a.fill_between(t, s.p05[i], s.p95[i], color=colour, alpha=0.2, linewidth=0, zorder=front)
        a.plot(t, s.p50[i], color=colour, linewidth=1.4, zorder=front)
    own = [x for x in r.readings if x.variable == name]
    for hollow in (False, True):
        some = [x for x in own if x.censored == hollow]
        face = "white" if hollow else ORANGE
        a.plot([x.time_h / scale for x in some], [x.value for x in some], "o", ms=3.0, color=ORANGE, mfc=face, zorder=4)
    for c in r.limits:
        if c.name.startswith(name) or (name == "volume" and c.name == "vessel_volume"):
            a.axhline(c.limit, color=ORANGE, linewidth=0.9, linestyle="--")
    s = r.replanned.trajectory
    a.set_title(f"{name.replace('_', ' ')} [{s.units[s.names.index(name)]}]", fontsize=STYLE["font"])


def _feed(r: Replan, a: Axes, scale: float) -> None:
    """Boluses as bars: done, still to come under the old plan, and anew; continuous feeds as lines."""
    after, before = (drawn_feeds(p.actions) for p in (r.replanned, r.plan))
    done = set(r.done)
    if after.boluses or before.boluses:
        given = [x for own in after.boluses.values() for x in own]
        ahead = [x for x in given if x not in done]
        rest = [x for own in before.boluses.values() for x in own if x not in done and x.time_h >= r.now_h - 1e-6]
        rows = (([x for x in given if x in done], INK, 0.0), (rest, GREY, -0.2), (ahead, BLUE, 0.2))
        for own, colour, shift in rows:
            a.bar(
                [x.time_h / scale + shift for x in own],
                [x.volume_ml for x in own],
                0.5 if shift == 0.0 else 0.38,
                color=colour,
            )
        a.set_title("bolus [mL]", fontsize=STYLE["font"])
        return
    for process, colour in ((before, GREY), (after, BLUE)):
        for feed in list(process.rates)[:1]:
            t, rate = process.rates[feed]
            a.plot(t / scale, rate, color=colour, linewidth=1.4)
    a.set_title("feed [mL/h]", fontsize=STYLE["font"])


def _legend(a: Axes) -> None:
    a.axis("off")
    rows = [
        (Line2D([], [], color=ORANGE, marker="o", linestyle="", markersize=4), "read"),
        (Line2D([], [], color=GREY, linewidth=1.6), "old plan (90 % band)"),
        (Line2D([], [], color=BLUE, linewidth=1.6), "planned anew (90 % band)"),
        (Patch(color=INK), "given"),
        (Line2D([], [], color=ORANGE, linewidth=0.9, linestyle="--"), "limit"),
        (Line2D([], [], color=INK, linewidth=0.8, linestyle=":"), "now"),
    ]
    a.legend([h for h, _ in rows], [t for _, t in rows], fontsize=STYLE["small"], frameon=False, loc="center left")
