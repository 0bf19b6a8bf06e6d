"""Redis: versions that tell what is outdated, and lists that are served while their versions are current."""
