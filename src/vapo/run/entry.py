"""The shape of the scripts in `src/`: a Hydra main whose user errors end in one line that says what to set."""

import os
import sys
from collections.abc import Callable
from errno import ENOSPC
from functools import wraps
from signal import SIGINT
from typing import Any, NoReturn

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads that spin made runs 3 to 15 times slower

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vapo.run.resolvers import register
from vapo.run.value_types import check_defaults

TRACEBACK = "VAPO_TRACEBACK"  # environment variable: HYDRA_FULL_ERROR as the user had set it
EMPTY = {
    f"{group}=null": f"{group}=none" for group in ("logger", "callbacks")
}  # Hydra knows no null for a group that has a default
QUOTED = "blanks, commas, braces, colons or equals signs"
USER_ERRORS = (ValueError, OSError, FloatingPointError, HydraException, OmegaConfBaseException)


def hydra_main(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorates the `main(config)` of a script, `configs/<config_name>.yaml` being its configuration. HYDRA_FULL_ERROR=1 shows
    tracebacks. A script imports what it needs inside of `main`: `--help` should not wait for torch."""

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @wraps(main)  # Hydra finds configs/ next to the script of `main`
        def checked(config: DictConfig) -> Any:
            try:
                check_defaults(config)
                return main(config)
            except USER_ERRORS as error:
                if isinstance(error, OSError) and error.errno == ENOSPC and error.filename is None:
                    error.filename = config.paths.output_dir
                if HydraConfig.get().mode == RunMode.MULTIRUN or TRACEBACK in os.environ:
                    raise  # the other jobs of a sweep go on
                end(error)

        def end(error: Exception) -> NoReturn:
            print(f"error: {one_line(error, f'src/{config_name}.py')}", file=sys.stderr)
            sys.exit(1)

        def run() -> None:
            register()
            words = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra wants it first or last
            sys.argv[1:] = [EMPTY.get(word, word) for word in words]
            if "HYDRA_FULL_ERROR" in os.environ:
                os.environ[TRACEBACK] = "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra pass errors on to here
            try:
                hydra.main(version_base="1.3", config_path="../configs", config_name=config_name)(checked)()
            except USER_ERRORS as error:
                if TRACEBACK in os.environ:
                    raise
                end(error)
            except KeyboardInterrupt:
                sys.exit(128 + SIGINT)

        return run

    return decorate


def one_line(error: Exception, script: str) -> str:
    """What was wrong and what to set, without Hydra's wrapping."""
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        reason = str(error).splitlines()[0]
        return f"{error.override}: {reason}; quote values with {QUOTED} twice, for the shell and for Hydra: 'key=\"a, b\"'"
    if "Config group override must be a string" in text:
        groups = [word.removesuffix("=null") for word in sys.argv[1:] if word.endswith("=null") and "." not in word]
        return f"{', '.join(groups)} is a group, not null: leave it out with ~{groups[0] if groups else '<group>'}"
    if isinstance(error, ConfigCompositionException) and "Could not override" in text:
        first, *rest = str(error).splitlines()
        return f"{first} There is no such key: `python {script} --cfg job` lists the existing ones. {' '.join(rest[:1])}".strip()
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    return " ".join(str(cause).split())
