"""Array aliases and the letters of array axes.

Axes, in the order they appear in every array:
S starts, E ensemble members, C clones, B vessels, K intervals of a schedule, M samples, D decisions,
J feeds, N species.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array
from jaxtyping import Float, Int

Scalar = Float[Array, ""]
Vector = Float[Array, " n"]
Matrix = Float[Array, "n m"]
Index = Int[Array, ""]
NumpyArray = np.ndarray[Any, np.dtype[Any]]

__all__ = ["Array", "Float", "Index", "Int", "Matrix", "NumpyArray", "Scalar", "Vector"]
