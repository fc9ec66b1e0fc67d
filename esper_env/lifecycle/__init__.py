"""The life of a seed: stages, legality, transitions and alpha schedules, as functions of arrays."""
