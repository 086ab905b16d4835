"""What may change: plans, the anatomy of models, search spaces and the axes that edit them."""
