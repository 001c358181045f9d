"""Here answers are compared with the lens blur's: `tiny` is the experiment with the guide."""

import pytest


@pytest.fixture(scope="session")
def tiny(guided):
    return guided
