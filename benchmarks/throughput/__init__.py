"""Every figure of speed and memory that the environment must reach, measured beside its bar."""
