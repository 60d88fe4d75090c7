"""One file per model and data set; installed as `common.configs`."""
