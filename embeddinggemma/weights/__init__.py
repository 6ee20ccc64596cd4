"""A manifest to a folder of verified files: where they come from, how they are fetched, how they are checked."""
