"""Shows rollouts, and which token got the credit: python src/view.py logs/train/runs/<time> [--compare other_run]

Writes one HTML file, which needs no server and no network, by default view.html in the run's folder. --serve shows the same page on
this machine alone and follows a run that is still training. Keys and how to log more: docs/view.md.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run or of its rollouts, or one step_*.parquet")
    parser.add_argument("--compare", type=Path, help="another run, beside it")
    parser.add_argument("--out", type=Path, help="the file to write")
    parser.add_argument("--steps", type=int, nargs="+", help="RL steps to show; default: all")
    parser.add_argument(
        "--tokenizer", action="append", help="folder or hub name; twice with --compare; default: the run's model.path"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a tokenizer")
    parser.add_argument("--serve", action="store_true", help="on 127.0.0.1 instead of into a file")
    parser.add_argument("--port", type=int, default=8765, help="of --serve; 0 for any")
    arguments = parser.parse_args()

    from vapo.view.page import index, write_page  # here: `--help` should not wait for torch
    from vapo.view.server import server
    from vapo.view.steps import Log

    run: Path = arguments.run
    names = arguments.tokenizer or [None]
    logs = [Log(run, names[0], arguments.trust_remote_code)]
    if arguments.compare is not None:
        logs.append(Log(arguments.compare, names[-1], arguments.trust_remote_code))
    try:
        if not arguments.serve:
            out = arguments.out or (run / "view.html" if run.is_dir() else run.with_suffix(".html"))
            print(write_page(logs, out, arguments.steps))
            return
        index(logs, True, arguments.steps)  # its errors come before the server does
        with server(logs, arguments.port, arguments.steps) as served:
            print(f"http://127.0.0.1:{served.server_port}/  (Ctrl-C stops it)", flush=True)
            served.serve_forever()
    except KeyboardInterrupt:
        print()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
