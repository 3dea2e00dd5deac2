"""Word embeddings, dictionaries and sizes for the first checkpoint."""

import gzip

from tests.bad_inputs.row import Row, write

FILES = "--source-embeddings en.vec --target-embeddings de.vec"
WECHSEL = f"init --source english --tokenizer tokenizer --method wechsel --out out {FILES}"
GROW = "init --source model --method grow --out out"

ROWS = [
    Row("embeddings that are not there", WECHSEL.replace("de.vec", "no.vec"), "no.vec does not exist"),
    Row(
        "embeddings that are a folder of something else",
        WECHSEL.replace("de.vec", "model"),
        "model has no fasttext.bin; expected word embeddings",
    ),
    Row("embeddings that are empty", WECHSEL, "de.vec is empty; expected word embeddings", (write("de.vec", ""),)),
    Row("embeddings without a header", WECHSEL, "de.vec is no word embeddings", (write("de.vec", "und 0.1 0.2\n"),)),
    Row(
        "embeddings of another dimension",
        WECHSEL,
        "en.vec has 4 dimensions and de.vec 2; train both with the same --dimension",
        (write("de.vec", "2 2\nund 1 2\nder 2 1\n"),),
    ),
    Row(
        "embeddings with a short line",
        WECHSEL,
        "de.vec, line 2: expected a word and 3 numbers, got 'und 1 2'",
        (write("de.vec", "2 3\nund 1 2\nder 2 1 3\n"),),
    ),
    Row(
        "embeddings with words for numbers",
        WECHSEL,
        "de.vec, line 2: expected a word and 2 numbers, got 'und a b'",
        (write("de.vec", "1 2\nund a b\n"),),
    ),
    Row(
        "embeddings cut short",
        WECHSEL,
        "de.vec is cut short: its first line promises 9 words of 2 numbers",
        (write("de.vec", "9 2\nund 1 2\n"),),
    ),
    Row(
        "embeddings with NaN",
        WECHSEL,
        "de.vec, line 2: the vector of 'und' holds NaN or infinity",
        (write("de.vec", "1 4\nund nan 1 2 3\n"),),
    ),
    Row("embeddings that claim to be endless", WECHSEL, "de.vec", (write("de.vec", f"{10**15} 300\nund 1\n"),)),
    Row("embeddings of no words", WECHSEL, "de.vec", (write("de.vec", "0 4\n"),)),
    Row(
        "embeddings in a damaged gzip",
        WECHSEL.replace("de.vec", "de.vec.gz"),
        "de.vec.gz is no word embeddings that can be read",
        (write("de.vec.gz", gzip.compress(b"9 2\nund 1 2\n")[:-6]),),
    ),
    Row(
        "fastText file cut short",
        WECHSEL.replace("de.vec", "de.bin"),
        "de.bin is no word embeddings that can be read",
        (write("de.bin", b"\xba\x16\x4f\x2f" + b"\x0c\0\0\0" + bytes(9)),),
    ),
    Row("dictionary that is not there", f"{WECHSEL} --dictionary no.txt", "no.txt does not exist"),
    Row(
        "dictionary in Latin-1",
        f"{WECHSEL} --dictionary d.txt",
        "d.txt, line 1 is not valid UTF-8 (invalid start byte); convert it first",
        (write("d.txt", "für\tfor\n".encode("latin-1")),),
    ),
    Row(
        "dictionary that is empty",
        f"{WECHSEL} --dictionary d.txt",
        "d.txt is empty; expected two words a line",
        (write("d.txt", "\n\n"),),
    ),
    Row(
        "dictionary of three columns",
        f"{WECHSEL} --dictionary d.txt",
        "d.txt, line 2: expected two words",
        (write("d.txt", "und und\nder der die\n"),),
    ),
    Row(
        "dictionary of the wrong language",
        f"{WECHSEL} --dictionary d.txt",
        "is it a dictionary of these two languages, in this order?",
        (write("d.txt", "chien\tcane\nchat\tgatto\n"),),
    ),
    Row(
        "dictionary of one endless line",
        f"{WECHSEL} --dictionary d.txt",
        "d.txt, line 1 is over 1,048,576 bytes long; is it a text file?",
        (write("d.txt", "a " * 10**6),),
    ),
    Row("heads that do not divide the width", f"{GROW} --width 33", "33"),
    Row("heads that do not fit the key heads", f"{GROW} --width 40 --heads 5", "heads"),
    Row("grown smaller", f"{GROW} --width 16 --heads 2", "16"),
    Row("grown in no direction", GROW, "method grow needs width, heads, feed_forward or depth"),
    Row(
        "shared rows moved by a map that the weighting lacks",
        "init --source english --helper model --weighting nearest --shrink 0.5 --out out",
        "shrink does not fit here: weighting nearest has no ridge map",
    ),
    Row(
        "shared rows moved and kept",
        "init --source english --helper model --weighting auto --shrink 0.5 --extend --out out",
        "shrink does not fit here: extend keeps the source's rows",
    ),
    Row("layers that the model lacks", "init --source bert --method minimodel --take 9 --out out", "9"),
    Row(
        "text that is not there for focus",
        "init --source english --tokenizer tokenizer --method focus --text no.txt --out out",
        "no.txt does not exist",
    ),
    Row(
        "TRILayer for a causal model",
        "init --source model --tokenizer tokenizer --method mean --trilayer --out out",
        "model is a llama model; a TRILayer goes into bert and roberta only",
    ),
    Row("adapted model of another width", "init --into bert --method plug --embeddings model --out out", "bert"),
]
