"""A simulated Lybic sandbox service: a small desktop that is really driven by coordinates and keys."""
