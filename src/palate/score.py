"""`accelerate launch -m palate.score ...`: the same as `palate score ...`, in one process or many."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: as of `palate`."""
    from palate.apps.cli import run
    from palate.errors import PalateError
    from palate.train.launcher import missing_processes, parent_command, spawn

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        missing, told = missing_processes(os.environ, parent_command())
    except PalateError as error:
        sys.stderr.write(f"palate: {error}\n")
        return 2
    if missing:
        return spawn(missing, given, told, "palate.score")
    code = run(["score", *given])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()
    return code


if __name__ == "__main__":
    sys.exit(main())
