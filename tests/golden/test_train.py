#!/usr/bin/env python3
"""What `coldstreamctl train` has to keep beyond single numbers: stopping and going on makes no difference, nothing is lost between
file, learner and snapshot, a checkpoint scores as the learner does, the metrics are those of their definitions.
usage: test_train.py BUILD"""
import csv, json, math, os, struct, subprocess, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kafka"))
import harness  # noqa: E402

BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BUILD", "build"))
GOLDEN = os.path.dirname(os.path.abspath(__file__))
CTL = f"{BUILD}/coldstreamctl"


def run(*words, code=0):
    done = subprocess.run([CTL, *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == code, (words, done)
    return done


def tensors_of(path):
    """{name: (type, shape, bytes)}"""
    raw = open(path, "rb").read()
    (length,) = struct.unpack("<Q", raw[:8])
    data = raw[8 + length:]
    return {name: (entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
            for name, entry in json.loads(raw[8:8 + length]).items() if name != "__metadata__"}


def write_tensors(path, tensors):
    header, at = {}, 0
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


class Case:
    """A golden case with its configuration and events copied into a folder, where they may be changed."""

    def __init__(self, folder, name, more=""):
        self.folder, self.name = folder, name
        self.initial = f"{GOLDEN}/{name}/initial.safetensors"
        text = open(f"{GOLDEN}/{name}/config.yaml", encoding="utf-8").read()
        self.batch = int(text.split("batch:")[1].split("size:")[1].split("}")[0].split("\n")[0])
        self.config = f"{folder}/config.yaml"
        open(self.config, "w", encoding="utf-8").write(text + "compute: {threads: 1}\n" + more)
        self.lines = open(f"{GOLDEN}/{name}/events.jsonl", encoding="utf-8").read().splitlines(keepends=True)

    def train(self, lines, imported, name, *more, code=0):
        with open(f"{self.folder}/events.jsonl", "w", encoding="utf-8") as file:
            file.writelines(lines)
        at = f"{self.folder}/{name}"
        return run("train", "-q", "-c", self.config, "-e", file.name, "-i", imported, "-o", f"{at}.safetensors", "-p", f"{at}.csv",
                   "-l", f"{at}.losses", *more, code=code)

    def file(self, name):
        return f"{self.folder}/{name}"

    def predictions(self, name):
        with open(self.file(name + ".csv"), encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def assert_same(got, want, what):
    got, want = tensors_of(got), tensors_of(want)
    assert list(got) == list(want), (what, set(got) ^ set(want))
    different = [name for name in want if got[name] != want[name]]
    assert not different, (what, different)


# rows_begin and others without behaviors in their events are not here: histories are no tensors.
RESUMED = ["adagrad_sgd", "adam_options", "base_dnn", "emb_lr", "features_dense", "features_multi", "ftrl", "linear", "mail_full_sequence",
           "mail_single", "one_example_batches", "sgd_rows"]


def going_on_is_as_if_never_stopped(folder):
    """Export, import and go on: the same bytes, whichever optimizer keeps what."""
    for name in RESUMED:
        case = Case(folder, name)
        steps = (len(case.lines) + case.batch - 1) // case.batch
        case.train(case.lines, case.initial, "whole")
        stop = case.batch * (steps // 2)
        assert 0 < stop < len(case.lines), (name, stop)
        case.train(case.lines[:stop], case.initial, "first")
        case.train(case.lines[stop:], case.file("first.safetensors"), "second")
        assert_same(case.file("second.safetensors"), case.file("whole.safetensors"), name)
        assert case.predictions("first") + case.predictions("second") == case.predictions("whole"), name


def nothing_is_learned_from_nothing(folder):
    """No events: what was imported comes back as it was, under all names, and the tables of results have a heading alone."""
    for name in ("adam_options", "ftrl"):
        case = Case(folder, name)
        case.train([], case.initial, "none")
        got, want = tensors_of(case.file("none.safetensors")), tensors_of(case.initial)
        assert {name: got.get(name) for name in want} == want, name
        assert case.predictions("none") == [] and len(open(case.file("none.losses")).readlines()) == 1, name


def with_minus_zeros(tensors):
    """Each moment's first number is -0, and each row's last."""
    minus, changed = struct.pack("<f", -0.0), {}
    for name, (kind, shape, data) in tensors.items():
        if name.endswith((".m", ".v")) and data:
            data = minus + data[4:]
        if name.endswith(".rows") and data:
            data = data[:-4] + minus
        changed[name] = kind, shape, data
    return changed


def minus_zero_stays(folder):
    """-0 as a moment or in a row: the same bytes through learner, snapshot and file; and it is no state that SGD would have to keep."""
    for name in ("adam_options", "ftrl"):
        case = Case(folder, name)
        given = with_minus_zeros(tensors_of(case.initial))
        write_tensors(case.file("given.safetensors"), given)
        case.train([], case.file("given.safetensors"), "none")
        snapshot = case.file(f"snapshot-{name}")
        run("import", "-q", "-c", case.config, "--to", snapshot, case.file("given.safetensors"))
        run("export", "-q", "--from", snapshot, "--format", "safetensors", case.file("back.safetensors"))
        for there in ("none", "back"):
            got = tensors_of(case.file(there + ".safetensors"))
            different = [tensor for tensor in given if got.get(tensor) != given[tensor]]
            assert not different, (name, there, different)
    case = Case(folder, "sgd_rows")             # rows without moments: zeros of either sign are none
    given = tensors_of(case.initial)
    rows = {name: value for name, value in given.items() if name.endswith(".rows")}
    for name, (kind, shape, data) in rows.items():
        for part in "mv":
            given[name[:-len("rows")] + part] = kind, shape, struct.pack("<f", -0.0) * (len(data) // 4)
        given[name[:-len("rows")] + "step"] = "U32", shape[:1], bytes(4 * shape[0])
    for name, (kind, shape, data) in tensors_of(case.initial).items():
        if name.startswith(("ranking.", "zero_shot.")) and not name.endswith((".mean", ".variance")):
            for part in "mv":
                given.setdefault(f"optimizer.{name}.{part}", (kind, shape, struct.pack("<f", -0.0) * (len(data) // 4)))
    write_tensors(case.file("given.safetensors"), given)
    case.train(case.lines, case.file("given.safetensors"), "signed")
    case.train(case.lines, case.initial, "plain")
    assert case.predictions("signed") == case.predictions("plain")
    name = next(iter(rows))[:-len("rows")] + "m"
    kind, shape, data = given[name]
    given[name] = kind, shape, struct.pack("<f", 1e-30) + data[4:]
    write_tensors(case.file("given.safetensors"), given)
    assert f"{name} is state that this" in case.train([], case.file("given.safetensors"), "none", code=65).stderr


def a_checkpoint_scores_as_the_learner_would(folder):
    """What score makes of a checkpoint cut in the middle is what train predicted there before it learned on."""
    for name in ("mail_full_sequence", "mail_full_pooled", "linear", "features_dense", "features_multi", "emb_lr", "one_example_batches"):
        case = Case(folder, name)
        stop = case.batch * 2
        case.train(case.lines, case.initial, "whole")
        case.train(case.lines[:stop], case.initial, "first", "--checkpoint", case.file(f"checkpoints-{name}"))
        with open(case.file("next.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(case.lines[stop:stop + case.batch])
        answers = [json.loads(line) for line in run("score", "--checkpoint", case.file(f"checkpoints-{name}"), "--events", file.name).stdout.splitlines()]
        wanted = case.predictions("whole")[stop:stop + case.batch]
        assert len(answers) == len(wanted) > 0, (name, len(answers), len(wanted))
        for got, want in zip(answers, wanted):
            assert got["impression_id"] == want["impression_id"] and got["new"] == (want["new"] == "1"), (name, got, want)
            assert abs(got["score"] - float(want["score"])) < 1e-6, (name, got, want)


def auc(judged):
    clicks, others = [p for p, clicked in judged if clicked], [p for p, clicked in judged if not clicked]
    won = sum((click > other) + (click == other) / 2 for click in clicks for other in others)
    return won / (len(clicks) * len(others)) if clicks and others else None


def definitions(examples):
    """Of [(user, prediction, clicked)]: numerics.md, section 7, in so many words."""
    def loss(p, clicked):
        p = min(max(p, 1e-7), 1 - 1e-7)
        return -math.log(p if clicked else 1 - p)
    by_user = {}
    for user, p, clicked in examples:
        by_user.setdefault(user, []).append((p, clicked))
    judged = [(auc(of_user), len(of_user)) for of_user in by_user.values() if auc(of_user) is not None]
    clicks = sum(clicked for _, _, clicked in examples)
    return {"examples": len(examples), "clicks": clicks,
            "log_loss": sum(loss(p, clicked) for _, p, clicked in examples) / len(examples) if examples else None,
            "auc": auc([(p, clicked) for _, p, clicked in examples]),
            "gauc": sum(one * weight for one, weight in judged) / sum(weight for _, weight in judged) if judged else None,
            "calibration": sum(p for _, p, _ in examples) / clicks if clicks else None}


def metrics_follow_their_definitions(folder):
    """For all, new and old users, over the last examples and since the start; with ties, without one of the labels, with predictions
    of 0 and 1."""
    for name, change in (("mail_full_pooled", None), ("one_example_batches", None), ("emb_lr", "same"), ("emb_lr", "certain"),
                         ("emb_lr", "never"), ("emb_lr", "always"), ("all_new", None)):
        window = 50
        case = Case(folder, name, f"evaluation: {{window: {window}}}\n")
        lines, imported = case.lines, case.initial
        if change in ("same", "certain"):       # one prediction for all, or a logit beyond what a float's sigmoid tells from 0 and 1
            given = tensors_of(imported)
            kind, shape, data = given["ranking.output.weight"]
            values = struct.unpack(f"<{len(data) // 4}f", data)
            given["ranking.output.weight"] = kind, shape, struct.pack(f"<{len(values)}f", *(v * (0 if change == "same" else 1000) for v in values))
            imported = case.file("given.safetensors")
            write_tensors(imported, given)
            lines = lines[:case.batch]
        if change in ("never", "always"):
            lines = [line.replace(f'"clicked": {"true" if change == "never" else "false"}', f'"clicked": {"false" if change == "never" else "true"}')
                     for line in lines]
        said = json.loads(case.train(lines, imported, "judged", "--json").stdout)["metrics"]
        users = {str(event["impression_id"]): str(event["user_id"]) for event in map(json.loads, lines)}
        judged = [(row["new"] == "1", (users[row["impression_id"]], float(row["score"]), row["clicked"] == "1")) for row in case.predictions("judged")]
        for span, spanned in (("window", judged[-window:]), ("start", judged)):
            for group in ("all", "new", "old"):
                wanted = definitions([example for new, example in spanned if group == "all" or new == (group == "new")])
                if span == "start" and len(judged) > window:
                    wanted.pop("gauc")          # the mean over windows
                for key, value in wanted.items():
                    got = said[span][group][key]
                    if value is None or got is None:
                        assert got is value, (name, change, span, group, key, got, value)
                    else:                       # since the start, AUC comes from bins of 1/256 of a logit
                        margin = 0.02 if (span, key) == ("start", "auc") else 2e-6 * max(1, abs(value))
                        assert abs(got - value) <= margin, (name, change, span, group, key, got, value)


def what_is_no_number_is_refused(folder):
    """NaN and the infinities, as words or as texts, in events; and 1 and "1" are one value."""
    case = Case(folder, "features_dense")
    event = json.loads(case.lines[0])
    for bad in ('NaN', 'Infinity', '-Infinity', '1e999', '"NaN"', '"inf"', '-1e999', '"1e39"', '1e39'):
        line = json.dumps(event).replace(json.dumps(event["user"]), '{"income": %s}' % bad) + "\n"
        assert bad in line
        assert "not_finite" in case.train([line], case.initial, "bad", "--strict", code=65).stderr, bad
        said = json.loads(case.train([line, *case.lines], case.initial, "bad", "--json").stdout)
        assert said["refused"] == {"not_finite": 1} and said["examples"] == len(case.lines), (bad, said)
    case.train(case.lines, case.initial, "good")
    assert_same(case.file("bad.safetensors"), case.file("good.safetensors"), "the others are learned as without it")
    case = Case(folder, "mail_full_pooled")
    case.train(case.lines, case.initial, "numbers")
    def as_text(line):
        event = json.loads(line)
        for group in ("user", "context"):
            event[group] = {name: str(value) if isinstance(value, int) else value for name, value in event[group].items()}
        return json.dumps(event, ensure_ascii=False) + "\n"
    texts = [as_text(line) for line in case.lines]
    assert texts != case.lines
    case.train(texts, case.initial, "texts")
    assert_same(case.file("texts.safetensors"), case.file("numbers.safetensors"), "25 and \"25\" are one key")


def main():
    tests = [going_on_is_as_if_never_stopped, nothing_is_learned_from_nothing, minus_zero_stays, a_checkpoint_scores_as_the_learner_would,
             metrics_follow_their_definitions, what_is_no_number_is_refused]
    failed = 0
    for number, test in enumerate(tests, 1):
        with tempfile.TemporaryDirectory(prefix="coldstream-train-") as folder:
            failed |= not harness.judge(number, test.__name__, lambda test=test, folder=folder: test(folder))
    print(f"1..{len(tests)}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
