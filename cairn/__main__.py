"""The command `cairn`. In an installed wheel the server's folders lie in `cairn/_server`, for this process alone."""

import sys
from pathlib import Path


def main() -> None:
    server = Path(__file__).parent / "_server"
    if server.is_dir():
        sys.path.insert(0, str(server))
    from ops.cli import main as run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
