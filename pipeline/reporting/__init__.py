"""What a set tells of itself: statistics, report.json, report.html, the dataset card, the summary."""
