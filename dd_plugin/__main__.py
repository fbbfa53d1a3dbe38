"""`python -m dd_plugin`, the same as the `dd-plugin` command (and what a launcher can start)."""

import sys

from dd_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
