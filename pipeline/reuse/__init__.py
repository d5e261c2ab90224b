"""Sets made from sets: fitted codecs taken over, views added, sets joined."""
