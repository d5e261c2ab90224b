"""Trains a byte model on a shard set: plan, batch, model, step; evaluates it, samples it. Imports no codec."""
