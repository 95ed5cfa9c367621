"""Compute: everything with tensors. The *policy*, as in reinforcement learning, is the model being trained."""
