"""What `report.html` is made of: a template, its style and script, and the figures that go into it."""
