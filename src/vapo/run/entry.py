"""What the scripts of `src/` share: a user's mistake ends in one line that says what to set."""

import os
import sys
from collections.abc import Callable

from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

USERS_ERRORS = (ValueError, OSError, FloatingPointError, HydraException, OmegaConfBaseException)


def one_line(error: Exception, script: str) -> str:
    """What was wrong and what to set, without Hydra's wrapping."""
    if isinstance(error, ConfigCompositionException) and "Could not override" in str(error):
        return f"{str(error).splitlines()[0]} There is no such key: `python {script} --cfg job` lists those there are"
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    return " ".join(str(cause).split())


def run_main(main: Callable[[], object], script: str) -> None:
    """Calls a Hydra main; HYDRA_FULL_ERROR=1 shows the traceback."""
    wants_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra pass errors on to here
    try:
        main()
    except USERS_ERRORS as error:
        if wants_traceback:
            raise
        print(f"error: {one_line(error, script)}", file=sys.stderr)
        sys.exit(1)
