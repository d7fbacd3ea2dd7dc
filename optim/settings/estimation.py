"""Settings of an estimation: the dataset, measurement noise, the fit, and the prediction of new clones."""

from __future__ import annotations

from dataclasses import dataclass, field

from optim.errors import ConfigError
from optim.settings.checks import require_one_of
from optim.settings.ranges import AtLeastOne, AtLeastTwo, Count, Days, FolderPath, NotNegative, Section, Tolerance
from optim.units import VARIABLES

GROUPS = ("clone", "experiment")
NOISE_KINDS = ("normal", "lognormal", "logit")
ENSEMBLES = ("laplace", "bootstrap", "nuts")


@dataclass(frozen=True)
class DatasetSettings(Section, key="dataset"):
    """Which data are fitted."""

    name: FolderPath = ""  # shipped or registered name, or the path of a dataset folder; empty: no data
    group_by: str = "clone"  # clone | experiment: what the parameters of level clone are estimated for

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("dataset.group_by", self.group_by, GROUPS)


@dataclass(frozen=True)
class AssaySettings(Section, key="noise.assays.*"):
    """Measurement noise of one assay: how its readings scatter about the truth.

    kind normal: standard deviation sqrt((relative * value)^2 + floor^2 + counting^2), in the unit of the assay.
    kind lognormal: of the logarithm, `relative`; `floor` is the reading below which the scatter stays what it is there
    (it is added before the logarithm is taken). kind logit, for shares: of the logarithm of the odds, `relative`.
    The counting noise is value (1 - value) / counted for a share, value^2 / counted for a concentration.
    """

    relative: NotNegative  # standard deviation as a fraction of the value
    floor: NotNegative  # standard deviation at value 0, in the unit of the assay
    kind: str = "normal"  # normal | lognormal | logit: the scale on which readings scatter
    counted: NotNegative = 0.0  # particles counted per reading, which adds their counting noise; 0: none
    robust: NotNegative = 0.0  # degrees of freedom of Student's t; 0: a normal distribution
    estimate: bool = True  # find a factor on the whole from the residuals, where `noise.estimate_scale` allows it

    def check_assay(self, name: str) -> None:
        """Refuse noise that the assay `name` cannot have. Raises `ConfigError`."""
        key = f"noise.assays.{name}"
        require_one_of(f"{key}.kind", self.kind, NOISE_KINDS)
        if self.kind == "normal" and self.floor <= 0.0:
            raise ConfigError(f"{key}.floor: must be above 0 with normal noise, else a reading of 0 has no error")
        if self.kind != "normal" and self.relative <= 0.0:
            raise ConfigError(f"{key}.relative: must be above 0 with {self.kind} noise, whose standard deviation it is")
        if self.kind != "normal" and self.counted > 0.0:
            raise ConfigError(f"{key}: counted goes with kind normal")
        if self.kind == "logit" and VARIABLES[name].upper != 1.0:
            raise ConfigError(f"{key}: logit noise is for shares between 0 and 1")
        if 0.0 < self.robust <= 2.0:
            raise ConfigError(f"{key}.robust: degrees of freedom must be above 2 (4 is usual), or 0 for none")


@dataclass(frozen=True)
class NoiseSettings(Section, key="noise"):
    """Measurement noise of every assay."""

    assays: dict[str, AssaySettings] = field(default_factory=dict)  # by variable
    estimate_scale: bool = True  # find one factor per assay from the residuals

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, assay in self.assays.items():
            require_one_of("noise.assays", name, VARIABLES)
            assay.check_assay(name)


@dataclass(frozen=True)
class FitSettings(Section, key="fit"):
    """A fit: search from several starts, noise and spread, ensemble, and what is reported beside it."""

    starts: AtLeastOne = 3  # of the search; the first is the prior's centre
    max_iterations: AtLeastOne = 60  # of one start
    tolerance: Tolerance = 1e-5  # relative decrease of the cost below which a start has converged
    ensemble: AtLeastTwo = 32  # plausible parameter sets that are kept, the estimate among them
    start_spread: NotNegative = 0.5  # starts are drawn with this many standard deviations of the prior
    noise_rounds: Count = 2  # how often, at most, noise and spread between clones are estimated anew
    estimate_spread: bool = True  # estimate the spread between clones; false keeps what the model states
    startup: Count = 0  # first-order steps before the search, for starts from which Gauss-Newton steps fail
    quality: bool = True  # look for faults of the data
    identify: bool = True  # report what the data cannot tell
    profiles: tuple[str, ...] = ()  # likelihood profiles of these parameters; shared: of all that are not a clone's
    ensemble_by: str = "laplace"  # laplace | bootstrap | nuts: where intervals and the ensemble come from
    draws: AtLeastTwo = 300  # of the bootstrap, or of each chain of the sampler
    continue_from: FolderPath | None = None  # output folder of an earlier run, whose fit is continued with these data
    leave_one_out: bool = False  # score predictions of runs and clones that were left out of the fit
    compare: tuple[str, ...] = ()  # other models to be fitted to the same data and scored

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("fit.ensemble_by", self.ensemble_by, ENSEMBLES)


@dataclass(frozen=True)
class PlaceSettings(Section, key="place"):
    """Prediction of new clones from their first days."""

    fit: FolderPath | None = None  # output folder of the run whose fit is used; default: that of this run
    days: tuple[Days, ...] = (0.0, 3.0, 5.0, 7.0)  # of culture, after which clones are predicted
    draws: AtLeastOne = 200  # plausible parameter sets of the answer
