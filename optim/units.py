"""Canonical units, and conversion of what laboratories write into them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from optim.errors import ConfigError, nearest


@dataclass(frozen=True)
class Quantity:
    """A measured quantity: its canonical unit, and the molar mass where mass and amount are interchangeable."""

    unit: str
    molar_mass: float | None = None  # g/mol
    upper: float | None = None  # limit in the canonical unit, beyond which a value cannot be meant


HOURS_PER_DAY = 24.0
ICE_POINT_K = 273.15  # 0 degC

# Molar masses: PubChem CIDs 5793 (D-glucose), 5961 (L-glutamine), 612 (lactic acid), 222 (ammonia), 753 (glycerol),
# 176 (acetic acid)
# The upper limits are those of nature, so that only slips are refused: a litre holds 1e12 cells of a picolitre at most,
# and of a solute not more than its own mass; titres above 100 g/L are milligrams.
VARIABLES: dict[str, Quantity] = {
    "vcd": Quantity("1e9 cells/L", upper=1000.0),
    "tcd": Quantity("1e9 cells/L", upper=1000.0),
    "viability": Quantity("1", upper=1.0),
    "glucose": Quantity("mmol/L", 180.156, upper=1e6 / 180.156),
    "glutamine": Quantity("mmol/L", 146.14, upper=1e6 / 146.14),
    "lactate": Quantity("mmol/L", 90.08, upper=1e6 / 90.08),
    "ammonia": Quantity("mmol/L", 17.031, upper=1e6 / 17.031),
    "titre": Quantity("g/L", upper=100.0),
    "biomass": Quantity("g/L", upper=500.0),
    "product": Quantity("g/L", upper=500.0),
    "glycerol": Quantity("g/L", 92.09, upper=1300.0),
    "acetate": Quantity("g/L", 60.05, upper=1100.0),
    "rna": Quantity("umol/L", upper=1e6),  # chains, whatever their length
    "activity": Quantity("U/mL", upper=1e9),
    "dissolved_oxygen": Quantity("%", upper=1000.0),  # of saturation with air
    # viral vectors: DNA of the vector in all forms, genomes inside capsids, capsids full or not
    "vector_dna": Quantity("1e12/L", upper=1e6),
    "vector_genomes": Quantity("1e12/L", upper=1e6),
    "capsids": Quantity("1e12/L", upper=1e6),
    "plasmid_rep_cap": Quantity("copies/cell", upper=1e9),
    "plasmid_vector": Quantity("copies/cell", upper=1e9),
    "plasmid_helper": Quantity("copies/cell", upper=1e9),
    # exhaust, dry, mol/mol
    "off_gas_oxygen": Quantity("%", upper=100.0),
    "off_gas_carbon_dioxide": Quantity("%", upper=100.0),
    "osmolality": Quantity("mOsm/kg", upper=20_000.0),
    "background_osmolality": Quantity("mOsm/kg", upper=20_000.0),
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
    return registry


# A unit is a product of powers: factors of ten and names, each with a small whole exponent. Text of files is split by
# this grammar and only single names reach pint, so that nothing in a file is ever evaluated as an expression.
LONGEST_UNIT = 40  # characters
_PART = re.compile(
    r"(?P<op>\s*[*/·]\s*|\s+|)"
    r"(?:(?P<open>\()|(?P<close>\))|(?P<ten>(?:x\s*)?10\s?(?:\^|\*\*)\s?\d{1,2}|1[eE]\+?\d{1,2}|10*(?![\d.eE]))"
    r"|(?P<name>[A-Za-zµμ]+|%)(?:(?:\^|\*\*)?(?P<power>-?[123])(?!\d))?)"
)
# Prefixes that laboratories use. Of counted things there may be millions; a megalitre is a slip of the shift key.
USUAL_PREFIXES = ("", "kilo", "deci", "centi", "milli", "micro", "nano", "pico", "femto")
COUNT_PREFIXES = (*USUAL_PREFIXES, "mega", "giga", "tera")
COUNTED = ("cells", "copies", "vg", "vp", "capsids")
SPELLINGS = {"%": "percent", "celsius": "degC"}


@cache
def parse_unit(unit: str) -> Any:
    """A unit as a pint quantity.

    Raises `ConfigError` for text that is no unit, a factor that is no power of ten, a prefix that no laboratory uses.
    """
    text = unit.strip().replace("°", "deg")
    if len(text) > LONGEST_UNIT:
        raise ConfigError(f"unit of {len(text)} characters; the longest is {LONGEST_UNIT}")
    if text in ("-", "fraction"):
        text = "1"
    found, at, inside, sign = None, 0, False, 1  # within parentheses a division counts for all
    open_end = True  # whether the next part needs no sign before it: at the start, after a factor or a parenthesis
    counted, direction = False, 1
    while at < len(text):
        part = _PART.match(text, at)
        if part is None or (not part["op"] and not open_end and not part["close"]) or (at == 0 and part["op"]):
            number = "; a unit holds no number but a power of ten" if re.match(r"\s*[-+.]?\d", text[at:]) else ""
            raise ConfigError(f"'{unit}' is no unit: '{text[at:]}' cannot be read{number}")
        divides, open_end = "/" in part["op"], bool(part["open"] or part["close"] or part["ten"])
        if part["open"] or part["close"]:
            if inside == bool(part["open"]):
                raise ConfigError(f"'{unit}' is no unit: its parentheses do not match")
            inside, sign = bool(part["open"]), -1 if part["open"] and divides else 1
        else:
            if not (counted and not part["op"].strip()):  # '/1e9 cells' divides by both
                direction = -sign if divides else sign if inside else 1
            factor, power = _factor(unit, part), int(part["power"] or 1) * direction
            found = factor if found is None and power == 1 else _product(unit, found, factor, power)
        counted = bool(part["ten"])
        at = part.end()
    if inside or found is None:
        raise ConfigError(f"'{unit}' is no unit" + (": its parentheses do not match" if inside else ""))
    return found


def _product(unit: str, found: Any, factor: Any, power: int) -> Any:
    import pint

    try:
        more = factor**power
        return more if found is None else found * more
    except pint.PintError as err:  # a temperature with a zero of its own times something
        raise ConfigError(f"'{unit}' is no unit: a temperature stands alone") from err


def _factor(unit: str, part: re.Match[str]) -> Any:
    registry = _registry()
    if part["ten"]:
        digits = re.sub(r"[\sx]", "", part["ten"]).replace("**", "^").replace("E", "e").replace("+", "")
        power = digits.partition("^")[2] or digits.partition("e")[2] or str(len(digits) - 1)
        return registry.Quantity(float(f"1e{power}"), "")
    name = SPELLINGS.get(part["name"], part["name"])
    known = registry.parse_unit_name(name)
    if not known:
        raise ConfigError(f"'{unit}' is no unit: nothing is called '{part['name']}'")
    prefix, base, _ = known[0]
    if prefix not in (COUNT_PREFIXES if base in COUNTED else USUAL_PREFIXES):
        smaller = name[0].swapcase() + name[1:]
        meant = f"; is '{smaller}' meant?" if registry.parse_unit_name(smaller) else ""
        raise ConfigError(f"'{name}' in unit '{unit}' is {prefix}{base}, which no laboratory uses{meant}")
    return registry.Quantity(1.0, name)


@cache
def conversion_factor(unit: str, quantity: Quantity) -> tuple[float, float]:
    """Factor and offset of a conversion: canonical value = value * factor + offset.

    Mass and amount are converted into each other where the quantity has a molar mass. Raises `ConfigError` when the
    text is no unit, or one that does not fit the quantity.
    """
    canonical = quantity.unit
    if unit.strip() == canonical:
        return 1.0, 0.0
    expected = f"expected a unit like '{display_unit(canonical)}'"
    try:
        have = parse_unit(unit)
    except ConfigError as err:
        raise ConfigError(f"{err}; {expected}") from err
    registry = _registry()
    if canonical == "degC":
        temperature = "[temperature]" in have.dimensionality and len(have.dimensionality) == 1 and have.magnitude == 1.0
        if not temperature:
            raise ConfigError(f"unit '{unit}' does not fit; {expected}")
        zero, one = (float(registry.Quantity(x, have.units).to("degC").magnitude) for x in (0.0, 1.0))
        return one - zero, zero
    if "[temperature]" in have.dimensionality:
        raise ConfigError(f"unit '{unit}' does not fit; {expected}")
    want = parse_unit(canonical)
    if quantity.molar_mass is not None and not have.is_compatible_with(want):
        molar = registry.Quantity(quantity.molar_mass, "g/mol")
        have = have / molar if have.is_compatible_with(want * molar) else have * molar
    if not have.is_compatible_with(want):
        raise ConfigError(f"unit '{unit}' does not fit; {expected}")
    return float((have / want).to("").magnitude), 0.0


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
