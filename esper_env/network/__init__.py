"""Stacked networks: many hosts and their seeds run as one."""
