"""Learning from interactions: matrices in, item vectors, item–item weights and popularity out."""
