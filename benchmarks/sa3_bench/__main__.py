"""`python -m sa3_bench`: how the suite starts itself again, one process per case."""

from sa3_bench.cli import main

raise SystemExit(main())
