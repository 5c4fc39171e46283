"""LaMP and personal adapters inside lm-evaluation-harness."""
