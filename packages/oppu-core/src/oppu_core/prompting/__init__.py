"""Methods, retrieval and profiles, and the prompts and training examples made from them."""
