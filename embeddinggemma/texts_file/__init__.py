"""A prediction's file of texts to a file of vectors. Imports pyarrow, so import it only when there is a file."""
