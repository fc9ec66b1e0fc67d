"""Policies: TensorDict in, TensorDict out, found by name in a registry."""
