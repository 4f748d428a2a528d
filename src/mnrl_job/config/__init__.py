"""The settings: their types, where they come from, how they are shown."""
