"""The model in Antimony (Smith et al. 2009, Bioinformatics 25:2452), for programs that read SBML."""

from screen import (
    BOLUS_DAYS,
    EPS,
    FEED_GLC,
    FEED_GLN,
    K_LYS,
    KD0,
    KLAC_UP,
    KSW,
    OWN,
    QLAC_UP,
    SHARED,
    STATES,
)

FEED = {"Glc": FEED_GLC, "Gln": FEED_GLN}
# boluses are events: all states are set at once, from their values before it
FED = ", ".join(f"{s} = ({s}*V + {FEED.get(s, 0.0)}*dose)/(V + dose)" for s in STATES)
MODEL = f"""
model screen
  compartment c = 1;
  species {", ".join(f"{s} in c" for s in STATES)};
  {"; ".join(f"{name} = 1" for name in (*SHARED, *OWN, *STATES, "V", "dose"))};
  mu := mum*Glc/(Kg+Glc)*Gln/(Kq+Gln)*KIl/(KIl+Lac)*KIa/(KIa+Amm);
  death := {KD0} + kd*Amm/(Kda+Amm);
  qg := mu/Yg + mg*Glc/({EPS}+Glc);
  qq := mu/Yq;
  uptake := {QLAC_UP}*Lac/({KLAC_UP}+Lac)*{KSW}/({KSW}+Glc);
  Xv' = (mu-death)*Xv;
  Xd' = death*Xv - {K_LYS}*Xd;
  Glc' = -qg*Xv;
  Gln' = -qq*Xv - kdq*Gln;
  Lac' = (Yl*qg-uptake)*Xv;
  Amm' = Ya*qq*Xv + kdq*Gln;
  mAb' = qp*Xv;
{chr(10).join(f"  at (time >= {day}): {FED}, V = V + dose;" for day in BOLUS_DAYS)}
end
"""
