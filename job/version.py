"""The version of evengrad."""

VERSION = "0.1.0"
