"""Set-up, the embedded demo models, and the headless host."""
