"""One module for each that is compared: its `application()` is measured as its users have it."""
