"""One TFDS builder per data set; `common.prepare` runs them."""
