"""What ours is measured beside. Each module has `steps(job)`, see measure.py; loop.py is the step they share."""
