"""A benchmark of image edits that makes itself: the tiny profile's data source."""
