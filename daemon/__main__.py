"""`python -m daemon` is `honed`."""

from daemon.cli import main

main()
