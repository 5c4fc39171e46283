"""Tables, figures and pages made of scores."""
