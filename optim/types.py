"""Array aliases and the letters of array axes.

Axes, in the order in which they appear in every array:
S starts, E draws of an ensemble, C clones, B vessels, L lanes (any of these, flattened), K intervals of a schedule,
M samples, D decisions, P parameters, J feeds, N species, N' states of a vessel (species, volume, collected amounts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # a NumPy array, a JAX array or a number: JAX takes all three, and no checker follows them through vmap
    Array = Any
    Scalar = Any
else:
    from jax import Array
    from jaxtyping import Float

    Scalar = Float[Array, ""]

# A state is a tuple of scalars, not an array: batched, each becomes an array of its own with the lanes last, which is
# the form that XLA vectorises across lanes.
StateTuple = tuple[Scalar, ...]

__all__ = ["Array", "Scalar", "StateTuple"]
