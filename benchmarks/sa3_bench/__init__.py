"""The benchmark suite: how long Stable Audio 3 takes on this machine, beside what others published. No torch."""
