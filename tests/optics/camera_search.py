"""Descent over the two numbers of a lens, by slopes of reverse mode."""

import jax.numpy as jnp
import numpy as np
import scipy.optimize

# Squared errors of pictures are about 1e-3; the search stops by the size of the slope.
GAIN = 1e3


def descend(slopes, start, typical, *constants):
    """Where a function of a lens's numbers is least, near `start`, and its value there.

    BFGS, with every number in units of its typical size; `slopes(numbers, *constants)` gives the
    value and the slope.
    """
    constants = tuple(constants)

    def value_and_slope(x):
        value, slope = slopes(jnp.float32(x * typical), *constants)
        return GAIN * float(value), GAIN * np.asarray(slope, np.float64) * typical

    found = scipy.optimize.minimize(
        value_and_slope, np.divide(start, typical), jac=True, options={"maxiter": 30, "gtol": 1e-4}
    )
    return found.x * typical, found.fun / GAIN
