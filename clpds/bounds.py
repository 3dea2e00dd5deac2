"""How much a file from elsewhere may say: bounds in one place, each far above anything real.

A few bytes can ask for any amount of memory or time: a count of layers, an id, a length, a reference to a reference.
What goes beyond a bound is refused with one line before anything is built of it.
"""

# Sizes of files, in bytes. A link or a sparse file of any size costs its maker nothing.
SETTINGS = 2**25  # config.json and its kin: the largest (20,000 classes, thousands of added tokens) have 2 MB
VOCABULARY_FILE = 2**30  # tokenizer.json, merges.txt, *.model: Gemma's 262,144 tokens take 34 MB
HEADER = 100 * 10**6  # of safetensors, the library's own limit, and an index of shards: 9 MB for 91,000 tensors
RECIPE = 2**20  # YAML that people write: the longest recipe here has 10 kB
RECORD = 2**30  # what clpds itself notes of a folder, a run or an evaluation: 100 bytes a file, 300 a step
MARK = 2**12  # what clpds notes in a temporary folder or a lock: a host, a process, 200 characters of its command
PROOF = 2**24  # the record or the JSON file that proves an output ours: records of a thousand shards have 100 kB
POINTER = 2**12  # a file that holds one name, as DeepSpeed's `latest`

# YAML
SECTIONS = 50  # in one another, of which a recipe has five; libyaml overflows the stack where there is no limit
VALUES = 100_000  # with what aliases and merge keys repeat: a recipe has a few hundred

# What a config counts. A meta model costs milliseconds and 20 kB a layer, twice.
LAYERS = 10_000  # the deepest models have a few hundred
COUNTED = 100_000  # experts, heads, groups, classes, codebooks: 2,048 experts, 65,536 languages' worth of classes
MODULES = 2**20  # layers times experts: 32 times 16,384 is the largest product that a class of transformers has
WIDTH = 2**24  # a hidden, feed-forward or head size: the largest is below 100,000
VOCABULARY = 2**27  # rows of an embedding: the largest, of n-grams, has 20 million
IDS = 2**24  # the largest id of a tokenizer: the largest vocabulary has 1.1 million
POSITIONS = 2**31  # 10 million are real

# GGUF
TEXT = 2**24  # bytes of one text: chat templates have thousands
FIELDS = 10_000  # of metadata: a file has about 50
ENTRIES = 2**22  # of an array: 262,144 tokens come with 514,906 merges
TENSORS = 10**6  # a model of 91,000 tensors is the largest
DIMENSIONS = 8  # of a tensor: ggml has 4

# Text
DOCUMENT = 2**28  # characters of a document, in memory as a whole: what stops a small file that unpacks to terabytes
LABELLED_LINE = 2**26  # bytes of a line of labelled JSONL
LINE = 2**20  # bytes of a line of parallel text or of a dictionary
VECTOR_LINE = 2**22  # bytes of a word and its vector: 10,000 numbers of 20 digits are 200 kB
ROWS = 1000  # of a Parquet file decoded at once, fewer where they are long
DECODED = 2**26  # bytes of such a batch, where not one row has more
SMALL = 2**28  # bytes that any Parquet file may decode to, and
EXPANSION = 10_000  # times its size: text compresses to a twentieth, a log of equal lines to a thousandth
UNPACKED = 1100  # times its size that a gzip file unpacks to at most: deflate codes 258 bytes in two bits

HOSTS = 100_000  # of a list in Slurm's short form; more is a mistake
