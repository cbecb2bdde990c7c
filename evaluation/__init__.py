"""How well stories hold together: measured against the truth in the small world, by CLIP on real videos."""
