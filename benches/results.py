"""Writes the tables of README.md and docs/ from the figures under benches/results/.

    python3 benches/results.py                             write every table anew
    python3 benches/results.py --check                     fail, and say where, if a document's table is another
    python3 benches/results.py --collect FILE.csv RUN...   keep finished runs as rows of FILE.csv; a run that it has is replaced

A table stands between `<!-- table NAME -->` and `<!-- end of table -->` in its document; NAME is a row of TABLES below. Beside each
document stands no other copy of the figures: to change one, change the CSV and run this. Needs Python 3.11 and nothing else.
"""

import argparse
import csv
import io
import json
import re
import statistics
import sys
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "results"
DOCUMENTS = ["README.md", "docs/emoji.md", "docs/data.md"]

# Whose tests are classified.
STREAMS = ["emoji-cil", "emoji-cil-balanced", "emoji-dil"]

# Settings that a variant of a preset may change: such a run says so in its first column.
VARIED = [
    ("objective", "hinge", True),
    ("objective", "class_weights", True),
    ("objective", "weighting", "prior"),
    ("train", "learning_rate_decay", 1.0),
    ("train", "warmup_every_step", False),
]
METHODS = (
    "zero-shot sequential finetune-ce joint cumulative-all cumulative-exp cumulative-equal restart oracle lwf patching gcl gdro "
    "ewc icarl der foster co2l cassle simplecil ranpac gda fecam rail"
).split()


# Runs: a row of a CSV for each step, with the accuracy A_b over all tests so far, the same with every class counting alike (runs of
# earlier versions have none), what had been spent by then, and the step's row of E, a column for each task.


class Run:
    def __init__(self, rows):
        self.rows = rows
        columns = [name for name in rows[0] if name.startswith("task ")]
        self.matrix = [[float(row[name]) if row[name] else None for name in columns] for row in rows]
        self.accuracy = [float(row["accuracy"]) for row in rows]
        self.samples, self.macs = int(rows[-1]["samples"]), int(rows[-1]["macs"])

    # The metrics of docs/methods.md, section 5; None where a value that one needs is missing.
    def average(self):
        return mean(self.accuracy)

    def last(self):
        return self.accuracy[-1]

    def by_class(self):
        return float(self.rows[-1]["balanced"]) if self.rows[-1]["balanced"] else None

    def in_domain(self):
        return mean([self.matrix[step][step] for step in range(len(self.matrix))])

    def backward(self):
        return mean([row[task] for step, row in enumerate(self.matrix) for task in range(step)])

    def forward(self):
        return mean([row[task] for step, row in enumerate(self.matrix) for task in range(step + 1, len(row))])

    def forgetting(self):
        last = len(self.matrix) - 1
        best = [max(row[task] for row in self.matrix if row[task] is not None) for task in range(last)]
        return mean([best[task] - self.matrix[last][task] for task in range(last)])


def add(values):
    """In their order, as the program adds them; Python's sum() rounds otherwise from 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total


def mean(values):
    return None if None in values or not values else add(values) / len(values)


def spread(values):
    """Mean and, of several values, sample standard deviation, in per cent."""
    if None in values:
        return ""
    middle = mean(values)
    if len(values) == 1:
        return f"{100 * middle:.1f}"
    deviation = (add((value - middle) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{100 * middle:.1f} ± {100 * deviation:.1f}"


def read_csv(name):
    with open(RESULTS / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def key(row):
    return row["variant"], METHODS.index(row["method"]), int(row["memory"]), int(row["seed"])


def cells(stream):
    """The runs of a stream that differ in nothing but the seed, by (variant, method, memory), in the order of the tables."""
    runs = {}
    for row in read_csv(f"{stream}.csv"):
        runs.setdefault(key(row), []).append(row)
    found = {}
    for (variant, method, memory, _), rows in sorted(runs.items()):
        found.setdefault((variant, METHODS[method], memory), []).append(Run(rows))
    return found


def class_means():
    """The mean over the classes after the last step, of the runs themselves or, of earlier versions', as `perennial eval` found it."""
    found = {
        (row["stream"], row["variant"], row["method"], int(row["memory"])): row["mean"] + (row["deviation"] and f" ± {row['deviation']}")
        for row in read_csv("class-means.csv")
    }
    for stream in STREAMS:
        for cell, runs in cells(stream).items():
            values = [run.by_class() for run in runs]
            if None not in values:
                found[stream, *cell] = spread(values)
    return found


# Tables.


def table(head, rows):
    """Markdown; the columns of numbers, all but those whose head begins with `<`, lie on the right."""
    align = ["---" if title.startswith("<") else "--:" for title in head]
    lines = [[title.removeprefix("<") for title in head]] + rows
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0].replace("|  |", "| |"), "|" + "|".join(align) + "|", *text[1:]])


def row(runs, *metrics):
    return [spread([metric(run) for run in runs]) for metric in metrics]


def shown(method, memory):
    """A method as a table has it, and the size of its memory where it keeps one."""
    return f"`{method}`", str(memory) if memory else ""


# The rows of the tables of all methods: of those with a memory, this size.
MEMORY = 500


def methods(stream):
    memories = {method for _, method, memory in cells(stream) if memory == MEMORY}
    for (variant, method, memory), runs in cells(stream).items():
        if not variant and memory == (MEMORY if method in memories else 0):
            yield method, memory, runs


def budget(runs, digits="{:d}"):
    return [digits.format(round(mean([run.samples for run in runs]))), digits.format(round(mean([run.macs for run in runs]) / 1e9))]


def summary(stream):
    """README's: fewer columns."""
    head = ["<method", "memory", "average incremental accuracy", "last accuracy", "forgetting", "samples trained on", "GMACs"]
    measured = (Run.average, Run.last, Run.forgetting)
    return table(head, [[*shown(m, n), *row(runs, *measured), *budget(runs, "{:,d}")] for m, n, runs in methods(stream)])


def stream(name):
    head = ["<method", "M", "seeds", "average", "last", "forgetting", "in-domain", "backward", "forward", "samples", "GMACs"]
    measured = (Run.average, Run.last, Run.forgetting, Run.in_domain, Run.backward, Run.forward)
    return table(
        head, [[*shown(m, n), str(len(runs)), *row(runs, *measured), *budget(runs)] for m, n, runs in methods(name)]
    )


def memory_sizes(name):
    head = ["<method", "M", "average", "last", "last, mean over the classes", "forgetting", "in-domain", "backward"]
    rows = []
    for (variant, method, memory), runs in cells(name).items():
        if not variant and method in ("gcl", "gdro"):
            by_class = class_means()[name, "", method, memory]
            after = (Run.forgetting, Run.in_domain, Run.backward)
            rows.append([f"`{method}`", str(memory), *row(runs, Run.average, Run.last), by_class, *row(runs, *after)])
    return table(head, rows)


def ablation(name):
    head = ["<", "average", "last", "last, mean over the classes", "forgetting", "in-domain"]
    rows = []
    for title, variant, method in [
        ("`gdro`", "", "gdro"),
        ("without the hinge (`objective.hinge=false`)", "objective.hinge=false", "gdro"),
        ("without class weights (`objective.class_weights=false`)", "objective.class_weights=false", "gdro"),
        ("`gcl`", "", "gcl"),
    ]:
        runs, by_class = cells(name)[variant, method, MEMORY], class_means()[name, variant, method, MEMORY]
        rows.append([title, *row(runs, Run.average, Run.last), by_class, *row(runs, Run.forgetting, Run.in_domain)])
    return table(head, rows)


def weightings(name):
    """gdro's three weightings of samples beside gcl, without memory and with."""
    head = ["<", "M", "average", "last", "last, mean over the classes", "forgetting", "in-domain"]
    rows = []
    for title, variant, method in [
        ("`gcl`", "", "gcl"),
        ("`gdro`, `prior`", "", "gdro"),
        ("`gdro`, `batch`", 'objective.weighting="batch"', "gdro"),
        ("`gdro`, `sample`", 'objective.weighting="sample"', "gdro"),
    ]:
        for memory in (0, MEMORY):
            runs, by_class = cells(name)[variant, method, memory], class_means()[name, variant, method, memory]
            after = row(runs, Run.forgetting, Run.in_domain)
            rows.append([title, str(memory), *row(runs, Run.average, Run.last), by_class, *after])
    return table(head, rows)


def by_classes():
    """The mean over the classes of methods that learn from texts, on the streams whose tests are classified."""
    streams, found = ["emoji-cil", "emoji-dil"], class_means()
    rows = []
    for method in METHODS:
        memory = MEMORY if any((name, "", method, MEMORY) in found for name in streams) else 0
        values = [found.get((name, "", method, memory), "") for name in streams]
        if any(values):
            rows.append([*shown(method, memory), *values])
    return table(["<method", "M", *(f"`{name}`" for name in streams)], rows)


def schedules(name):
    head = ["<method", "<learning rates", "average", "last"]
    rows = []
    for method in ("sequential", "cumulative-all"):
        for title, variant in [
            ("the preset's", ""),
            ("warm-up in every step (`train.warmup_every_step=true`)", "train.warmup_every_step=true"),
            ("each step's maximum half the last's (`train.learning_rate_decay=0.5`)", "train.learning_rate_decay=0.5"),
        ]:
            rows.append([f"`{method}`", title, *row(cells(name)[variant, method, 0], Run.average, Run.last)])
    return table(head, rows)


def training_speed(file):
    speed = json.loads((RESULTS / file).read_text())["samples_per_second"]
    ours, padded = speed["perennial"], speed["perennial full context"]
    rows = [["Perennial, f32", f"{ours:.1f}", ""], ["Perennial, f32, texts padded to the context length", f"{padded:.1f}", ""]]
    for title, name in [("PyTorch eager, f32", "torch f32"), ("PyTorch eager, bf16 autocast", "torch bf16")]:
        peer = speed[name]
        rows.append([title, f"{peer:.1f}", f"{ours / peer:.2f} (padded: {padded / peer:.2f})"])
    return table(["<", "samples/s", "Perennial / it"], rows)


def loader_speed(file):
    measured = json.loads((RESULTS / file).read_text())
    rows = []
    for title, transform in [
        ("evaluation: shorter edge to 224, middle", "evaluation"),
        ("training: random crop of 0.9 to 1, to 224", "training"),
    ]:
        rounds = [one for one in measured["samples_per_second"] if one["transform"] == transform]
        speed = {who: f"{statistics.median(one[who] for one in rounds):,.0f}" for who in ("open_clip", "files", "packed")}
        ratio = measured["median_ratio"][transform]
        rows.append(
            [title, speed["open_clip"], speed["files"], f"{ratio['files']:.1f} x", speed["packed"], f"{ratio['packed']:.0f} x"]
        )
    return table(["<", "open_clip's loader", "files", "", "packed", ""], rows)


TABLES = {
    "emoji-cil summary": lambda: summary("emoji-cil"),
    "emoji-cil": lambda: stream("emoji-cil"),
    "emoji-dil": lambda: stream("emoji-dil"),
    "emoji-tic": lambda: stream("emoji-tic"),
    "emoji-cil memory": lambda: memory_sizes("emoji-cil"),
    "emoji-cil ablation": lambda: ablation("emoji-cil"),
    "emoji-cil weightings": lambda: weightings("emoji-cil"),
    "emoji-cil-balanced weightings": lambda: weightings("emoji-cil-balanced"),
    "by classes": by_classes,
    "emoji-tic learning rates": lambda: schedules("emoji-tic"),
    "training speed": lambda: training_speed("cpu-sapphire-rapids-2-threads.json"),
    "loader speed": lambda: loader_speed("loader-zen4-2-workers.json"),
}
PLACE = re.compile(r"(?<=<!-- table )(?P<name>[^\n]*?) -->\n(?P<body>.*?)\n<!-- end of table -->", re.DOTALL)


def write(check):
    """Every document with its tables as the figures have them; those that were otherwise."""
    seen, different = Counter(), []
    for name in DOCUMENTS:
        path = ROOT / name
        old = path.read_text(encoding="utf-8")

        def replace(found):
            title = found["name"]
            if title not in TABLES:
                sys.exit(f"{name} has a place for the table {title!r}; there are: {', '.join(TABLES)}")
            seen[title] += 1
            new = TABLES[title]()
            if new != found["body"]:
                was, now = found["body"].splitlines(), new.splitlines()
                line = next((i for i, pair in enumerate(zip(was, now)) if pair[0] != pair[1]), min(len(was), len(now)))
                show = lambda lines: lines[line] if line < len(lines) else "(no such line)"
                different.append(f"{name}, table {title!r}, line {line + 1}:\n  has       {show(was)}\n  should be {show(now)}")
            return f"{title} -->\n{new}\n<!-- end of table -->"

        new = PLACE.sub(replace, old)
        if not check and new != old:
            path.write_text(new, encoding="utf-8")
            print(f"{name}: written anew")
    if check and different:
        sys.exit("\n".join([*different, "run benches/results.py, or correct the figures under benches/results/"]))
    missing = [name for name in TABLES if not seen[name]]
    if missing:
        sys.exit(f"no document has a place for: {', '.join(missing)}")


# Keeping runs.


def collect(name, directories):
    path = RESULTS / name
    rows = read_csv(name) if path.exists() else []
    for directory in map(Path, directories):
        config = tomllib.loads((directory / "config.toml").read_text(encoding="utf-8"))
        run = json.loads((directory / "evaluation.json").read_text(encoding="utf-8"))
        if len(run["matrix"]) != len(run["steps"]):
            sys.exit(f"{directory} has finished {len(run['matrix'])} of {len(run['steps'])} steps: only whole runs are kept")
        changed = [(part, name, config[part].get(name, usual)) for part, name, usual in VARIED if config[part].get(name, usual) != usual]
        variant = ",".join(f"{part}.{name}={json.dumps(value)}" for part, name, value in changed)
        start = {"variant": variant, "method": run["method"], "memory": str(run["memory"]), "seed": str(run["seed"])}
        rows = [one for one in rows if any(one[field] != start[field] for field in start)]
        for step, (values, accuracy, spent) in enumerate(zip(run["matrix"], run["accuracy"], run["spent"]), start=1):
            tasks = {f"task {task}": "" if value is None else repr(value) for task, value in enumerate(values, start=1)}
            balanced = run.get("balanced_accuracy", [])
            alike = repr(balanced[step - 1]) if balanced else ""
            rows.append({**start, "step": step, "accuracy": repr(accuracy), "balanced": alike, **spent, **tasks})
        kept = Run(rows[-len(run["steps"]) :])
        for metric, value in [
            (kept.average, "average_incremental_accuracy"),
            (kept.last, "last_accuracy"),
            (kept.by_class, "last_balanced_accuracy"),
            (kept.forgetting, "forgetting"),
            (kept.in_domain, "in_domain"),
            (kept.backward, "backward_transfer"),
            (kept.forward, "forward_transfer"),
        ]:
            if metric() != run["summary"].get(value):
                sys.exit(f"{directory}: {value} is {run['summary'].get(value)} in evaluation.json and {metric()} by its matrix")
    rows.sort(key=lambda one: (*key(one), int(one["step"])))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table differs")
    parser.add_argument("--collect", nargs="+", metavar=("FILE.csv", "RUN"), help="keep finished runs")
    arguments = parser.parse_args()
    if arguments.collect:
        collect(arguments.collect[0], arguments.collect[1:])
    else:
        write(arguments.check)


if __name__ == "__main__":
    main()
