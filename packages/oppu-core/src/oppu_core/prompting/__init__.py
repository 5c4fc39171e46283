"""What stands in front of an answer: methods, retrieval, profiles, and the prompts made of them."""
