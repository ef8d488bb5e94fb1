"""A trained retriever in use: no Lightning, no data sets, no experiment."""
