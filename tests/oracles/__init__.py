"""The equations read aloud in loops. Nothing here imports the package."""
