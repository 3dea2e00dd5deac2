"""Recipes, overrides and profiles of clusters that say what cannot be."""

from typing import Any

from tests.bad_inputs.inputs import TRAIN
from tests.bad_inputs.row import Row, recipe, write

RUN = "run r.yaml"


def stage(**changes: Any) -> Any:
    """A recipe of one training stage."""
    return recipe(train=TRAIN | changes)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
LAUGHING = "steps:\n  t:\n    verb: tokenizer\n    out: o\n    input:\n" + "".join(
    f"      - &b{n} [{', '.join([f'*b{n - 1}'] * 9) if n else 'x'}]\n" for n in range(12)
)

ROWS = [
    Row("recipe that is not there", "run no.yaml", "no.yaml does not exist, and recipes/ has no file of that name"),
    Row("recipe that is a folder", "run model", "model does not exist, and recipes/ has no file of that name"),
    Row("recipe in Latin-1", RUN, "r.yaml is no UTF-8 text", (write("r.yaml", "# für\n".encode("latin-1")),)),
    Row("recipe that is empty", RUN, "r.yaml: expected a mapping 'steps'", (write("r.yaml", ""),)),
    Row("recipe that is a list", RUN, "r.yaml: expected a mapping 'steps'", (write("r.yaml", "- steps\n"),)),
    Row(
        "recipe that is no YAML",
        RUN,
        "r.yaml is not valid YAML: line 2, column 1: did not find",
        (write("r.yaml", "steps: {\n"),),
    ),
    Row("recipe with a null byte", RUN, "r.yaml is not valid YAML", (write("r.yaml", b"steps: \0"),)),
    Row("recipe with a date that is none", RUN, "r.yaml is not valid YAML", (write("r.yaml", "steps: 2024-99-99"),)),
    Row(
        "recipe nested too deeply",
        RUN,
        "r.yaml is not valid YAML: over 50 sections deep",
        (write("r.yaml", "steps: " + "[" * 100_000),),
    ),
    Row(
        "recipe that builds a Python object",
        RUN,
        "r.yaml is not valid YAML: line 1, column 8: could not determine a constructor for the tag",
        (write("r.yaml", "steps: !!python/object/apply:os.mkdir [mark]"),),
    ),
    Row(
        "recipe whose aliases multiply",
        RUN,
        "r.yaml is not valid YAML: over 100,000 values",
        (write("r.yaml", LAUGHS + "steps: {t: {verb: train}}"),),
    ),
    Row(
        "value whose aliases multiply",
        RUN,
        "r.yaml is not valid YAML: over 100,000 values",
        (write("r.yaml", LAUGHING),),
    ),
    Row(
        "two steps of one name",
        RUN,
        "r.yaml is not valid YAML: line 3, column 3: key 'a' is given twice",
        (write("r.yaml", "steps:\n  a: {verb: convert, model: m, out: o}\n  a: {verb: convert, model: m, out: p}\n"),),
    ),
    Row("unknown verb", RUN, "r.yaml: x.verb is 'trian'; did you mean 'train'?", (recipe(x={"verb": "trian"}),)),
    Row("no verb", RUN, "r.yaml: key 'x.verb' is missing", (recipe(x={"out": "o"}),)),
    Row("step that is a list", RUN, "r.yaml: key 'x.verb' is missing", (write("r.yaml", "steps: {x: [1]}"),)),
    Row(
        "unknown key",
        "train r.yaml",
        "unknown key 'train.optimiser'; did you mean 'optimizer'?",
        (stage(optimiser={}),),
    ),
    Row(
        "unknown key in a section",
        "train r.yaml",
        "unknown key 'train.optimizer.rl'; did you mean 'lr'?",
        (stage(optimizer={"rl": 1}),),
    ),
    Row(
        "missing key",
        "plan r.yaml --gpu cpu",
        "r.yaml: key 'train.steps' is missing",
        (recipe(train={k: v for k, v in TRAIN.items() if k != "steps"}),),
    ),
    Row(
        "text for a number",
        "train r.yaml",
        "'train.steps': Input should be a valid integer, unable to parse string as an integer (got 'many')",
        (stage(steps="many"),),
    ),
    Row(
        "yes for a number",
        "train r.yaml",
        "'train.steps': Input should be a number, not yes or no",
        (stage(steps=True),),
    ),
    Row(
        "negative number",
        "train r.yaml",
        "'train.micro_batch': Input should be greater than 0 (got -1)",
        (stage(micro_batch=-1),),
    ),
    Row(
        "not a number",
        "train r.yaml",
        "'train.optimizer.lr': Input should be a finite number (got nan)",
        (stage(optimizer={"lr": float("nan")}),),
    ),
    Row(
        "list for a path",
        "train r.yaml",
        "'train.model': Input is not a valid path for <class 'pathlib.Path'> (got ['a', 'b'])",
        (stage(model=["a", "b"]),),
    ),
    Row(
        "very long value",
        "train r.yaml",
        "'train.steps': Unable to parse input string as an integer, exceeded maximum size (got '999999999999...",
        (stage(steps="9" * 100_000),),
    ),
    Row(
        "batch that the micro batch does not divide",
        "train r.yaml",
        "global_batch 5 is no multiple of micro_batch 2",
        (stage(global_batch=5),),
    ),
    Row(
        "option of another objective",
        "train r.yaml",
        "objective causal does not use mask_share",
        (stage(mask_share=0.3),),
    ),
    Row(
        "override without a value",
        "run r.yaml train.steps",
        "override 'train.steps' is not of the form section.key=value",
    ),
    Row(
        "override of an unknown step",
        "run r.yaml trian.steps=3",
        "override 'trian.steps=3': no step 'trian'; did you mean 'train'?",
    ),
    Row(
        "override of what is no section",
        "run r.yaml train.steps.x=3",
        "override 'train.steps.x=3': 'steps' is no section",
    ),
    Row("override that is no YAML", "run r.yaml 'train.steps=['", "override 'train.steps=[' is not valid YAML"),
    Row("step that the recipe lacks", "run r.yaml --step tok", "r.yaml has no step 'tok' (its steps: train)"),
    Row(
        "stage that the recipe lacks",
        "train r.yaml --step tok",
        "r.yaml has no train step 'tok' (its train steps: train)",
    ),
    Row(
        "stage in a recipe of none",
        "supervise r.yaml",
        "r.yaml has no train step",
        (recipe(c={"verb": "convert", "model": "m", "out": "o"}),),
    ),
    Row("no Slurm job", "supervise r.yaml", "no Slurm job: submit a script that calls this"),
    Row("unknown GPU", "plan r.yaml --gpu H9000", "gpu 'H9000' is not known; known: "),
    Row("no GPU", "plan r.yaml", "name the device with --gpu, or `gpu` in the profile"),
    Row("plan of a model that is not there", "plan r.yaml train.model=gone --gpu cpu", "gone"),
    Row(
        "profile that is not there",
        "submit r.yaml --profile no.yaml --dry-run",
        "no.yaml does not exist, and recipes/clusters/ has no file",
    ),
    Row(
        "profile that is a list",
        "submit r.yaml --profile p.yaml --dry-run",
        "p.yaml: expected a mapping with 'train', 'cpu'",
        (write("p.yaml", "[]"),),
    ),
    Row(
        "profile with an unknown key",
        "submit r.yaml --profile p.yaml --dry-run",
        "p.yaml: unknown key 'acount'; did you mean 'account'?",
        (write("p.yaml", "{train: {}, cpu: {}, acount: lab}"),),
    ),
    Row(
        "profile with a command for a partition",
        "submit r.yaml --profile p.yaml --dry-run",
        "p.yaml: 'train.partition': String should match pattern",
        (write("p.yaml", "{train: {partition: $(touch mark)}, cpu: {}}"),),
    ),
    Row(
        "profile whose scratch is not there",
        "submit r.yaml --profile p.yaml --dry-run",
        "p.yaml: scratch is /no/such",
        (write("p.yaml", "{train: {}, cpu: {}, scratch: /no/such}"),),
    ),
    Row(
        "step name that is a command",
        "submit r.yaml --profile p.yaml --dry-run",
        "r.yaml: 'x; touch mark' cannot be a step's name",
        (write("p.yaml", "{train: {}, cpu: {}}"), recipe(**{"x; touch mark": TRAIN})),
    ),
    Row(
        "recipe name with a line break",
        "submit 'r\ntouch mark.yaml' --profile p.yaml --dry-run",
        "line break",
        (
            write("p.yaml", "{train: {}, cpu: {}}"),
            recipe(train=TRAIN),
            lambda folder: (folder / "r.yaml").rename(folder / "r\ntouch mark.yaml"),
        ),
    ),
    Row("number of blocks 0", "eval model --data data --blocks 0", "'blocks': Input should be greater than 0"),
    Row("method without its input", "init --source model --out o", "method clp needs helper"),
    Row(
        "option of another method",
        "init --source model --tokenizer tokenizer --method mean --sparsity 3 --out o",
        "method mean does not use sparsity",
    ),
    Row("compare-init without init steps", "compare-init r.yaml --data de.txt --out o", "r.yaml has no init step"),
    Row("compare-init without text", "compare-init r.yaml --data no.txt --out o", "no.txt does not exist"),
]
