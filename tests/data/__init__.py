"""Tests of dd_plugin.data."""
