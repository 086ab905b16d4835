"""What we found: the front, the pick, the page, and the model to deploy."""
