"""Beam on one machine, durable: snapshots, commits, recovery. Knows no model and no topic."""
