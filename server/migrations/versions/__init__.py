"""One step a file. A step that was shipped is never changed."""
