"""How fast the whole system is, on real processes, against stand-ins that cost next to nothing."""
