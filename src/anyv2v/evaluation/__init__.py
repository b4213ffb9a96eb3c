"""How well an edit was carried: clips whose true edit is known."""
