"""Canonical units, and conversion of what laboratories write into them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from optim.errors import ConfigError, nearest


@dataclass(frozen=True)
class Quantity:
    """A measured quantity: its canonical unit, and the molar mass where mass and amount are interchangeable."""

    unit: str
    molar_mass: float | None = None  # g/mol
    upper: float | None = None  # physical limit in the canonical unit


HOURS_PER_DAY = 24.0
ICE_POINT_K = 273.15  # 0 degC

# Molar masses: PubChem CIDs 5793 (D-glucose), 5961 (L-glutamine), 612 (lactic acid), 222 (ammonia), 753 (glycerol),
# 176 (acetic acid)
VARIABLES: dict[str, Quantity] = {
    "vcd": Quantity("1e9 cells/L"),
    "tcd": Quantity("1e9 cells/L"),
    "viability": Quantity("1", upper=1.0),
    "glucose": Quantity("mmol/L", 180.156),
    "glutamine": Quantity("mmol/L", 146.14),
    "lactate": Quantity("mmol/L", 90.08),
    "ammonia": Quantity("mmol/L", 17.031),
    "titre": Quantity("g/L"),
    "biomass": Quantity("g/L"),
    "product": Quantity("g/L"),
    "glycerol": Quantity("g/L", 92.09),
    "acetate": Quantity("g/L", 60.05),
    "rna": Quantity("umol/L"),  # chains, whatever their length
    "activity": Quantity("U/mL"),
    "dissolved_oxygen": Quantity("%"),  # of saturation with air
    # viral vectors: DNA of the vector in all forms, genomes inside capsids, capsids full or not
    "vector_dna": Quantity("1e12/L"),
    "vector_genomes": Quantity("1e12/L"),
    "capsids": Quantity("1e12/L"),
    "plasmid_rep_cap": Quantity("copies/cell"),
    "plasmid_vector": Quantity("copies/cell"),
    "plasmid_helper": Quantity("copies/cell"),
    # exhaust, dry, mol/mol
    "off_gas_oxygen": Quantity("%", upper=100.0),
    "off_gas_carbon_dioxide": Quantity("%", upper=100.0),
    "osmolality": Quantity("mOsm/kg"),
    "background_osmolality": Quantity("mOsm/kg"),
}
# canonical units as they are written in tables and on axes
DISPLAY_UNITS = {"1e9 cells/L": "1e6 cells/mL", "1e12/L": "1e9/mL", "1": "-", "degC": "°C"}


@cache
def _registry() -> Any:
    import pint

    registry: Any = pint.UnitRegistry()
    registry.define("cells = [cells] = cell")
    registry.define("osmole = [osmosis] = Osm")
    registry.define("vvd = 1 / day")  # volumes of the vessel per day
    registry.define("EUR = [currency]")
    # counted things: vector genomes, vector particles, copies of a plasmid
    for counted in ("copies = [] = copy", "vg = []", "vp = []", "capsids = [] = capsid"):
        registry.define(counted)
    registry.preprocessors.append(lambda text: text.replace("%", " percent ").replace("µ", "u"))
    return registry


@cache
def conversion_factor(unit: str, quantity: Quantity) -> tuple[float, float]:
    """Factor and offset of a conversion: canonical value = value * factor + offset.

    Mass and amount are converted into each other where the quantity has a molar mass. Raises `ConfigError` when the
    unit does not fit the quantity.
    """
    canonical = quantity.unit
    text = unit.strip()
    if text == canonical:
        return 1.0, 0.0
    registry = _registry()
    text = "1" if text in ("-", "fraction") else text
    try:
        have = registry.Quantity(text) if not text.lower().startswith("deg") else registry.Quantity(1, text)
        want = registry.Quantity(canonical) if canonical != "degC" else registry.Quantity(1, "degC")
        if canonical == "degC":
            zero = registry.Quantity(0.0, have.units).to("degC").magnitude
            one = registry.Quantity(1.0, have.units).to("degC").magnitude
            return float(one - zero), float(zero)
        if quantity.molar_mass is not None and not have.is_compatible_with(want):
            molar = registry.Quantity(quantity.molar_mass, "g/mol")
            have = have / molar if have.is_compatible_with(want * molar) else have * molar
        return float((have / want).to("").magnitude), 0.0
    except Exception as err:  # pint raises many kinds, tokenizer errors among them
        raise ConfigError(f"unit '{unit}' does not fit; expected a unit like '{display_unit(canonical)}'") from err


def to_canonical(value: float, unit: str, quantity: Quantity) -> float:
    """Convert a value from `unit` to the canonical unit. Raises `ConfigError` when the unit does not fit."""
    scale, offset = conversion_factor(unit, quantity)
    return value * scale + offset


def display_unit(canonical: str) -> str:
    """Canonical unit as it is written in tables and on axes."""
    return DISPLAY_UNITS.get(canonical, canonical)


def quantity_of(name: str) -> Quantity:
    """Quantity of a measured variable. Raises `ConfigError` with the nearest name for an unknown one."""
    if name not in VARIABLES:
        raise ConfigError(f"unknown variable '{name}'.{nearest(name, VARIABLES)} Known: {', '.join(VARIABLES)}")
    return VARIABLES[name]
