"""``python -m benchmarks.gpu``, see command.py. Loader processes import this file: it must be light."""

import sys

if __name__ == "__main__":
    from benchmarks.gpu.command import main

    sys.exit(main())
