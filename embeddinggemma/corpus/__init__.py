"""Many texts: files of rows to Parquet files of vectors, with rejects, resuming and exact search."""
