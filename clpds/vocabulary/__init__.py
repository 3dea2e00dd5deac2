"""What a token is: its bytes in any tokenizer family, the roles of special tokens, what two vocabularies share."""
