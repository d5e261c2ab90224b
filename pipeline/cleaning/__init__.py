"""What is left out, and why: rules, duplicates, near-duplicates; and what is scrubbed."""
