"""Data: builders write ArrayRecord, the pipeline feeds it to the loop."""
