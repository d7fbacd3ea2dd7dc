"""How quantities are called and how numbers read, in tables, on pages and on axes."""

from __future__ import annotations

import math

from optim.optimise.result import Interval
from optim.units import VARIABLES, display

VARIABLE_LABELS = {
    "vcd": "Viable cell density",
    "tcd": "Total cell density",
    "viability": "Viability",
    "glucose": "Glucose",
    "glutamine": "Glutamine",
    "lactate": "Lactate",
    "ammonia": "Ammonia",
    "titre": "Titre",
    "biomass": "Biomass",
    "product": "Product",
    "glycerol": "Glycerol",
    "osmolality": "Osmolality",
    "background_osmolality": "Background osmolality",
    "product_per_biomass": "Product per biomass",
    "volume": "Volume",
    "temperature": "Temperature",
}
METRIC_LABELS = {
    "yield_per_cost_g_per_eur": "Yield per cost",
    "cogs_eur_per_g": "Cost per gram",
    "released_g": "Released product",
    "cost_eur": "Cost per batch",
    "titre_g_per_l": "Titre at harvest",
    "space_time_yield_g_per_l_d": "Space-time yield",
    "harvest_h": "Harvest",
    "harvest_volume_ml": "Volume at harvest",
    "product_per_biomass_g_per_g": "Product per biomass",
    "viability_at_harvest": "Viability at harvest",
}
# less is better, or neither: an arrow up is no praise for these
LOWER_IS_BETTER = frozenset({"cogs_eur_per_g", "cost_eur"})
NEUTRAL = frozenset({"harvest_h", "harvest_volume_ml"})


def words(name: str) -> str:
    """'shift_temperature' -> 'Shift temperature'."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def variable_label(name: str) -> str:
    return VARIABLE_LABELS.get(name, words(name))


def metric_label(name: str) -> str:
    return METRIC_LABELS.get(name, words(name))


def variable_unit(name: str) -> str:
    """Unit of a measured variable as people write it; '' for a name that is no measured variable."""
    return display(VARIABLES[name].unit) if name in VARIABLES else ""


def pretty_unit(unit: str) -> str:
    """A unit for the eye: '1e6 cells/mL' -> '10⁶ cells/mL', '-' -> ''."""
    return {"-": "", "1": "", "degC": "°C"}.get(unit, unit.replace("1e6", "10⁶").replace("1e9", "10⁹"))


def with_unit(label: str, unit: str) -> str:
    """'Glucose (mmol/L)', or the label alone where there is no unit."""
    shown = pretty_unit(unit)
    return f"{label} ({shown})" if shown else label


def number(value: float | None, digits: int = 3) -> str:
    """A number with about `digits` significant digits, thousands set apart, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0.0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 7 or size < -4:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    places = max(0, digits - 1 - size)
    return f"{value:,.{places}f}".replace(",", "\u202f").replace("-", "−")


def exact(value: float | None) -> str:
    """A set value as it is set: no digits are made up or lost, trailing zeros are."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{round(value, 6):g}".replace("-", "−")


def interval(value: Interval, digits: int = 3) -> str:
    """'2.31 – 2.87', both ends with the same number of decimals."""
    ends = (value.p05, value.p95)
    if not all(math.isfinite(e) for e in ends):
        return "–"
    largest = max(abs(e) for e in ends)
    size = math.floor(math.log10(largest)) if largest > 0.0 else 0
    if size >= 7 or size < -4:
        return f"{number(ends[0], digits)} – {number(ends[1], digits)}"
    places = max(0, digits - 1 - size)
    low, high = (f"{e:,.{places}f}".replace(",", "\u202f").replace("-", "−") for e in ends)
    return f"{low} – {high}"


def percent(share: float, digits: int = 1, signed: bool = False) -> str:
    """'+12.3 %'; a share that is no number gives a dash."""
    if not math.isfinite(share):
        return "–"
    shown = round(100.0 * share, digits)
    text = f"{shown + 0.0:{'+' if signed and shown else ''}.{digits}f}".replace("-", "−")
    return f"{text} %"
