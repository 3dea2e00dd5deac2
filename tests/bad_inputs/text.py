"""Raw text, parallel text, alignments and dictionaries."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bad_inputs.row import Row, write

DATA = "data --tokenizer tokenizer --sequence-length 16 --workers 1 --out out --input"
LABELLED = "data --tokenizer bert --sequence-length 16 --label-key label --out out --input"
TOKENIZER = "tokenizer --vocab-size 300 --out out --input"
PAIRS = "pairs --tokenizer bert --sequence-length 32 --out out --parallel"


def parquet(**columns: list[object]) -> bytes:
    """A Parquet file of these columns."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


ROWS = [
    Row("text that is not there", f"{DATA} no.txt", "no.txt does not exist"),
    Row(
        "text of an unknown ending",
        f"{DATA} x.docx",
        "x.docx: unknown ending; expected .txt, .jsonl",
        (write("x.docx", "x"),),
    ),
    Row("folder for text", f"{DATA} model", "model was not saved by `datasets`; name the files in it instead"),
    Row(
        "text in Latin-1", f"{TOKENIZER} x.txt", "x.txt is not valid UTF-8", (write("x.txt", "für".encode("latin-1")),)
    ),
    Row("text of blank lines", f"{TOKENIZER} x.txt", "no text in x.txt", (write("x.txt", "\n \n\t\n"),)),
    Row("text that is empty", f"{DATA} x.txt", "no text in x.txt", (write("x.txt", ""),)),
    Row(
        "text too short for a block",
        f"{DATA} x.txt --validation-fraction 0",
        "less than one block of 16",
        (write("x.txt", "kurz"),),
    ),
    Row(
        "half a surrogate pair",
        f"{DATA} x.jsonl",
        "x.jsonl is not valid UTF-8 (surrogates not allowed)",
        (write("x.jsonl", '{"text": "\\ud800"}'),),
    ),
    Row(
        "JSONL without the key",
        f"{DATA} x.jsonl",
        "record 1 of x.jsonl has no 'text'; pass --text-key with one of: body",
        (write("x.jsonl", '{"body": "x"}'),),
    ),
    Row("JSONL of numbers", f"{DATA} x.jsonl", "record 1 of x.jsonl is no JSON object", (write("x.jsonl", "1\n"),)),
    Row(
        "JSONL with a number for text",
        f"{DATA} x.jsonl",
        "'text' in record 2 of x.jsonl is of type int, not a string",
        (write("x.jsonl", '{"text": "a"}\n{"text": 1}\n'),),
    ),
    Row("JSONL cut short", f"{DATA} x.jsonl", "x.jsonl is not valid JSON", (write("x.jsonl", '{"text": "a"'),)),
    Row("JSON nested too deeply", f"{DATA} x.jsonl", "x.jsonl is not valid JSON", (write("x.jsonl", "[" * 1900),)),
    Row(
        "Parquet without the column",
        f"{DATA} x.parquet",
        "x.parquet has no 'text'; pass --text-key with one of: body",
        (write("x.parquet", parquet(body=["x"])),),
    ),
    Row(
        "Parquet of numbers",
        f"{DATA} x.parquet",
        "'text' in x.parquet is of type int64, not a string",
        (write("x.parquet", parquet(text=[1])),),
    ),
    Row(
        "Parquet cut short",
        f"{DATA} x.parquet",
        "x.parquet cannot be read",
        (write("x.parquet", parquet(text=["x"])[:-9]),),
    ),
    Row(
        "gzip cut short",
        f"{DATA} x.txt.gz",
        "x.txt.gz cannot be read",
        (write("x.txt.gz", gzip.compress(b"text" * 99)[:-10]),),
    ),
    Row("gzip that is none", f"{DATA} x.txt.gz", "x.txt.gz cannot be read", (write("x.txt.gz", "text"),)),
    Row("line that never ends", f"{DATA} x.txt", "x.txt holds a document of over", (write("x.txt", "ab " * 1000),)),
    Row(
        "gzip bomb",
        f"{DATA} x.txt.gz",
        "x.txt.gz holds a document of over",
        (write("x.txt.gz", gzip.compress(bytes(10**6))),),
    ),
    Row(
        "gzip bomb of paragraphs",
        f"{DATA} x.txt.gz --sample-by paragraph",
        "x.txt.gz holds a document of over",
        (write("x.txt.gz", gzip.compress(b"a\n" * 10**5)),),
    ),
    Row(
        "gzip bomb of one document",
        f"{DATA} x.txt.gz --sample-by document",
        "x.txt.gz holds a document of over",
        (write("x.txt.gz", gzip.compress(b"a\n" * 10**5)),),
    ),
    Row(
        "JSON line that never ends",
        f"{DATA} x.jsonl",
        "x.jsonl holds a document of over",
        (write("x.jsonl", json.dumps({"text": "ab " * 1000})),),
    ),
    Row(
        "dataset that names files elsewhere",
        f"{DATA} saved",
        "saved/state.json names '../secret.arrow', which lies outside its folder",
        (
            write("saved/state.json", '{"_data_files": [{"filename": "../secret.arrow"}]}'),
            write("saved/dataset_info.json", "{}"),
        ),
    ),
    Row("dataset without its files", f"{DATA} saved", "saved", (write("saved/state.json", "{}"),)),
    Row("dataset that is no JSON", f"{DATA} saved", "saved", (write("saved/state.json", "{"),)),
    Row(
        "block of one token",
        "data --tokenizer tokenizer --sequence-length 1 --out out --input de.txt",
        "sequence_length 1 leaves nothing to predict",
    ),
    Row(
        "validation of twice the text",
        f"{DATA} de.txt --validation-fraction 2",
        "validation_fraction 2.0 is not between 0 and 1",
    ),
    Row(
        "labels that are not there",
        f"{LABELLED} x.jsonl",
        "x.jsonl has no field 'label' (its fields: text)",
        (write("x.jsonl", '{"text": "x"}'),),
    ),
    Row(
        "no word often enough",
        "embeddings --input x.txt --out out",
        "no word occurs 5 times in the text; lower --min-count",
        (write("x.txt", "ein Wort"),),
    ),
    Row("embeddings of no text", "embeddings --input no.txt --out out", "no.txt does not exist"),
    Row(
        "vocabulary smaller than the bytes",
        "tokenizer --vocab-size 10 --out out --input de.txt",
        "vocab_size is 10, but bpe needs",
    ),
    Row(
        "parallel text of other lengths",
        "dictionary --parallel de.txt x.txt --out out",
        "x.txt 1; line by line, one must be the other's translation",
        (write("x.txt", "one\n"),),
    ),
    Row(
        "parallel text without a tab",
        "dictionary --parallel de.txt --out out",
        "de.txt, line 1: expected two sentences with a tab between them",
    ),
    Row(
        "parallel text in Latin-1",
        "dictionary --parallel x.txt --out out",
        "x.txt, line 2 is not valid UTF-8",
        (write("x.txt", "a\tb\nfür\tfor\n".encode("latin-1")),),
    ),
    Row(
        "parallel text that is no translation",
        "dictionary --parallel x.txt --out out",
        "no two words of x.txt are aligned 2 times",
        (write("x.txt", "a\tb\n"),),
    ),
    Row("parallel text that is not there", f"{PAIRS} no.txt de.txt", "no.txt does not exist"),
    Row("alignments that are not there", f"{PAIRS} de.txt de.txt --alignments no.txt", "no.txt does not exist"),
    Row(
        "alignments of another form",
        f"{PAIRS} x.txt --alignments a.txt",
        "a.txt, line 1: '0:0' is no link such as 3-4",
        (write("x.txt", "a\tb\n"), write("a.txt", "0:0\n")),
    ),
    Row(
        "alignments of other text",
        f"{PAIRS} x.txt --alignments a.txt",
        "a.txt, line 1: a link goes beyond the sentences",
        (write("x.txt", "a\tb\n"), write("a.txt", "0-7\n")),
    ),
    Row(
        "alignment with an endless number",
        f"{PAIRS} x.txt --alignments a.txt",
        "is no link such as 3-4",
        (write("x.txt", "a\tb\n"), write("a.txt", f"0-{'1' * 5000}\n")),
    ),
    Row(
        "alignments of too few lines",
        f"{PAIRS} x.txt --alignments a.txt",
        "a.txt has 0 lines for 1 pairs of sentences",
        (write("x.txt", "a\tb\n"), write("a.txt", "")),
    ),
    Row(
        "pairs that are all too long",
        "pairs --tokenizer bert --sequence-length 3 --out out --parallel x.txt --validation-fraction 0",
        "none of the 1 pairs is left to train on",
        (write("x.txt", "ein Wort und noch eins\tone word and another\n"),),
    ),
]
