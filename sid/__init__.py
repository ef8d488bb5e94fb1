"""What a semantic ID is: codes, tables, tokens, tries and decoding. Plain torch; knows no dataset and no trainer."""
