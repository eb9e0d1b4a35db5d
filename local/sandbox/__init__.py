"""A simulated Lybic sandbox service: a desktop and a phone, really driven by coordinates and keys."""
