"""The mathematics of a list: mixing sources, diversity, novelty, exploration. Arrays in, arrays out."""
