"""Learning: advantages, the headwise PPO loss, normalizers, and the update that puts them together."""
