"""The test suite; its folders and files mirror those of `dd_plugin`."""
