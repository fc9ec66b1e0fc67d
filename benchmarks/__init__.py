"""What the environment costs and whether it is worth playing, measured; one command and one JSON file each."""
