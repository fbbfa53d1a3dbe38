"""Tests of dd_plugin.networks."""
