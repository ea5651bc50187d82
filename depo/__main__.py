"""``python -m depo``: the command line without installation, as ``ray job submit`` runs it."""

import sys

from depo.cli import main

sys.exit(main())
