"""The page's tabs: controls and view of each."""
