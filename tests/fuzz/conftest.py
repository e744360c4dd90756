"""How much is tried: the same examples in every run, or VAPO_FUZZ of them at random, as in `VAPO_FUZZ=5000 pytest tests/fuzz`."""

import os

from hypothesis import HealthCheck, settings

wanted = os.environ.get("VAPO_FUZZ")
settings.register_profile(
    "vapo",
    derandomize=wanted is None,
    max_examples=int(wanted or 40),
    deadline=None,  # nothing here depends on how fast the machine is
    suppress_health_check=list(HealthCheck),
    database=None,
    print_blob=True,
)
settings.load_profile("vapo")
