#!/usr/bin/env python3
"""An independent implementation of the numerics contract, in float64 and with gradients by automatic differentiation.

Slow and plain on purpose: it shares no code and no derivation with core/. It reproduces the given golden cases to a few
hundredths of their tolerance; make_cases.py uses it to make more of them.

usage: reference.py CASE_DIR OUTPUT_DIR        needs: pip install numpy autograd pyyaml xxhash
Reads config.yaml, initial.safetensors and events.jsonl of the case; writes expected.safetensors, predictions.csv, losses.csv.
"""
import collections
import csv
import decimal
import json
import math
import struct
import sys

import autograd.numpy as np
import numpy as plain
import xxhash
import yaml
from autograd import value_and_grad

import stream

DTYPES = {"F32": plain.float32, "F64": plain.float64, "U32": plain.uint32, "U64": plain.uint64}
MASKED = -1e30


def load_safetensors(path):
    raw = open(path, "rb").read()
    (length,) = struct.unpack("<Q", raw[:8])
    tensors = {}
    for name, entry in json.loads(raw[8:8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = plain.frombuffer(raw[8 + length + begin:8 + length + end], dtype=DTYPES[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"]).copy()
    return tensors


def save_safetensors(path, tensors):
    names = {plain.dtype(dtype): name for name, dtype in DTYPES.items()}
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values()))


def number_text(value):
    """The shortest decimal text that reads back, laid out as ECMAScript and RFC 8785 do."""
    if isinstance(value, int) and -2 ** 63 <= value < 2 ** 64:
        return str(value)
    sign, digits, exponent = decimal.Decimal(repr(float(value))).as_tuple()
    digits = "".join(map(str, digits)).lstrip("0")
    kept = digits.rstrip("0")
    exponent += len(digits) - len(kept)
    if not kept:
        return "0"
    point = len(kept) + exponent                # value = 0.kept * 10^point
    if len(kept) <= point <= 21:
        text = kept + "0" * (point - len(kept))
    elif 0 < point < len(kept):
        text = kept[:point] + "." + kept[point:]
    elif -6 < point <= 0:
        text = "0." + "0" * -point + kept
    else:
        text = kept[0] + ("." + kept[1:] if kept[1:] else "") + f"e{point - 1:+d}"
    return "-" * sign + text


def value_text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else number_text(value)


def key(text):
    return xxhash.xxh3_64_intdigest(text.encode())


def present(values):
    return [value for value in values if value is not None and value != "" and value != []]


def feature_keys(feature, event, group):
    """The keys of one feature's values in one event (section 1)."""
    if group == "item" and feature["name"] == "item_id":
        value = event.get("item_id")
    else:
        value = (event.get(group) or {}).get(feature["name"])
    values = present(value if isinstance(value, list) else [value])
    if "bucketize" in feature:
        values = [sum(1 for bound in feature["bucketize"] if bound <= float(value)) for value in values]
    return [key(value_text(value)) for value in values]


def leaky_relu(x):
    return np.where(x > 0, x, 0.2 * x)


def cross_entropy(logit, label, correction):
    """A correction is a positive, less the negative that was learned before it."""
    return np.mean(np.where(correction, -logit, np.maximum(logit, 0) - logit * label + np.log1p(np.exp(-np.abs(logit)))))


def attention_pool(parameters, prefix, x, mask):
    """x [B, n, d], mask [B, n] -> [B, d]; zeros where nothing is unmasked (section 3)."""
    score = np.dot(np.tanh(np.dot(x, parameters[prefix + "weight"].T) + parameters[prefix + "bias"]), parameters[prefix + "query"])
    score = np.where(mask, score, MASKED)
    weight = np.exp(score - np.max(score, axis=1, keepdims=True)) * mask
    total = np.sum(weight, axis=1, keepdims=True)
    return np.sum((weight / np.where(total > 0, total, 1))[:, :, None] * x, axis=1)


def residual_block(parameters, prefix, x, activate_last):
    def dense(layer, inputs):
        return np.dot(inputs, parameters[f"{prefix}{layer}.weight"].T) + parameters[f"{prefix}{layer}.bias"]
    hidden = leaky_relu(dense(0, x))
    hidden = leaky_relu(dense(1, np.concatenate([hidden, x], 1)))
    output = dense(2, np.concatenate([hidden, x], 1))
    return leaky_relu(output) if activate_last else output


def mean_kernel(x, y, bandwidth):
    distance = np.sum((x[:, None, :] - y[None, :, :]) ** 2, 2)
    return np.mean(np.exp(-distance / (2 * bandwidth ** 2)))


def update(options, parameter, gradient, m, v, step):
    kind, rate = options.get("kind", "adam"), options.get("learning_rate", 1e-3)
    epsilon = float(options.get("epsilon", 1e-8))
    if kind == "adam":
        keep, keep_square = options.get("beta1", 0.9), options.get("beta2", 0.999)
        m[...] = keep * m + (1 - keep) * gradient
        v[...] = keep_square * v + (1 - keep_square) * gradient * gradient
        parameter[...] -= rate * (m / (1 - keep ** step)) / (plain.sqrt(v / (1 - keep_square ** step)) + epsilon)
    elif kind == "adagrad":
        v[...] += gradient * gradient
        parameter[...] -= rate * gradient / (plain.sqrt(v) + epsilon)
    elif kind == "ftrl":        # McMahan et al. 2013, algorithm 1, an element at a time: z is m, n is v
        beta, l1, l2 = options.get("beta", 1.0), options.get("l1", 0.0), options.get("l2", 0.0)
        for i in plain.ndindex(parameter.shape):
            sigma = (math.sqrt(v[i] + gradient[i] ** 2) - math.sqrt(v[i])) / rate
            m[i] += gradient[i] - sigma * parameter[i]
            v[i] += gradient[i] ** 2
            slope = (beta + math.sqrt(v[i])) / rate + l2
            parameter[i] = 0.0 if abs(m[i]) <= l1 else -(m[i] - math.copysign(l1, m[i])) / slope
    elif kind == "sgd":
        parameter[...] -= rate * gradient
    else:
        raise ValueError(kind)


class Reference:
    def __init__(self, config, tensors, real=plain.float64):
        self.real = real
        self.dimension = config["embedding"]["dimension"]
        features = config["features"]
        self.features = {group: features.get(group) or [] for group in ("user", "context", "item")}
        self.behavior_table = features.get("behavior", {}).get("table", "item")
        self.behavior_length = features.get("behavior", {}).get("max_length", 100)
        self.tensors = {name: array.astype(real) if array.dtype == plain.float32 else array.copy() for name, array in tensors.items()}
        self.ranking = config["model"]["ranking"]
        self.hidden = len(self.ranking.get("hidden", [512, 256])) if self.ranking.get("tower", "base_dnn") == "base_dnn" else 0
        self.zero_shot = config["model"]["zero_shot"]
        self.sequence = self.zero_shot.get("target", "sequence" if config["model"].get("preset") == "paper" else "pooled") == "sequence"
        self.losses = self.zero_shot.get("losses", "full")
        self.optimizer = config.get("optimizer", {})
        self.running = {}       # (group, dense feature) -> count, mean, m2
        self.tables = config["embedding"].get("tables", {})
        self.row = {}           # table -> key -> place; a place may be without a row
        self.living = {}        # table -> places that have a row -> event time when it was last seen
        self.waiting = {}       # (table, place) -> sightings, before there is a row
        for name, array in tensors.items():
            if name.startswith("embedding.") and name.endswith(".keys"):
                table = name[len("embedding."):-len(".keys")]
                self.row[table] = {int(value): index for index, value in enumerate(array)}
                self.living[table] = dict.fromkeys(range(len(array)), math.inf)

    # ---- a batch's values ----

    def lookup(self, group, batch):
        """[(table, places of each example)] of a group's categorical features."""
        found = []
        for feature in self.features[group]:
            if feature.get("kind") != "dense":
                table = feature.get("table", feature["name"])
                found.append((table, [[self.row[table][k] for k in feature_keys(feature, event, group)] for event in batch]))
        return found

    def behaviors(self, batch):
        return [[self.row[self.behavior_table][key(value_text(item))] for item in present(event["behaviors"])[-self.behavior_length:]]
                for event in batch]

    def add_places(self, events):
        """A place for each value that comes, without a row yet. Rows begin as zeros: embedding.init_std has to be 0."""
        keys = {self.behavior_table: {key(value_text(item)) for event in events
                                      for item in present(event["behaviors"])[-self.behavior_length:]}}
        for group, listed in self.features.items():
            for feature in listed:
                if feature.get("kind") != "dense":
                    keys.setdefault(feature.get("table", feature["name"]), set()).update(
                        k for event in events for k in feature_keys(feature, event, group))
        for table, wanted in keys.items():
            prefix = f"embedding.{table}."
            before = self.row.get(table, {})
            after = sorted(wanted | set(before))
            for name in ("rows", "m", "v", "step"):
                if name == "rows" or prefix + name in self.tensors:
                    old = self.tensors.get(prefix + name, plain.zeros((len(before), self.dimension), self.real))
                    grown = plain.zeros((len(after),) + old.shape[1:], old.dtype)
                    for place, k in enumerate(after):
                        if k in before:
                            grown[place] = old[before[k]]
                    self.tensors[prefix + name] = grown
            self.tensors[prefix + "keys"] = plain.array(after, plain.uint64)
            self.row[table] = {k: place for place, k in enumerate(after)}
            self.living[table] = {self.row[table][k]: self.living[table][place] for k, place in before.items()}

    def begin_rows(self, categorical, behaviors, now):
        """Rows for the values that were seen often enough with this batch; all that have one are seen now."""
        sightings = collections.Counter((self.behavior_table, place) for items in behaviors for place in items)
        for columns in categorical.values():
            sightings.update((table, place) for table, rows in columns for places in rows for place in places)
        for (table, place), count in sightings.items():
            living = self.living[table]
            if place not in living:
                total = self.waiting.pop((table, place), 0) + count
                if total < self.tables.get(table, {}).get("admit_after", 1):
                    self.waiting[table, place] = total
                    continue
                living[place] = now
                self.tensors[f"embedding.{table}.rows"][place] = 0
                start = self.optimizer.get("embedding", {})
                m, v, step = self.row_state(table)
                m[place], step[place] = 0, 0
                v[place] = start.get("initial_accumulator", 0.1) if start.get("kind") in ("adagrad", "ftrl") else 0
            living[place] = max(living[place], now)

    def result(self):
        """The tensors, of rows those that are left."""
        tensors = dict(self.tensors)
        for table, living in self.living.items():
            places = sorted(living)
            for part in ("keys", "rows", "m", "v", "step"):
                name = f"embedding.{table}.{part}"
                if name in tensors:
                    tensors[name] = tensors[name][places]
        return tensors

    def expire_rows(self, now):
        for table, living in self.living.items():
            after = stream.duration(self.tables.get(table, {}).get("expire_after", 0))
            if after:
                self.living[table] = {place: seen for place, seen in living.items() if seen >= now - after}

    def of_living(self, categorical, behaviors):
        """The same with the values that have a row alone; a behavior that has none keeps its slot, as None."""
        def has(table, place):
            return place in self.living[table]
        return ({group: [(table, [[place for place in places if has(table, place)] for places in rows]) for table, rows in columns]
                 for group, columns in categorical.items()},
                [[place if has(self.behavior_table, place) else None for place in items] for items in behaviors])

    def dense(self, group, batch):
        """[(name, raw values with NaN, standardised values)] of a group's dense features."""
        found = []
        for feature in self.features[group]:
            if feature.get("kind") == "dense":
                values = [(event.get(group) or {}).get(feature["name"]) for event in batch]
                raw = plain.array([plain.nan if value in (None, "") else float(plain.float32(value)) for value in values])
                count, mean, m2 = self.running.get((group, feature["name"]), (0, 0.0, 0.0))
                mean, variance = (mean, m2 / count) if count > 1 else (0.0, 1.0)
                scaled = (plain.nan_to_num(raw) - mean) / (math.sqrt(variance) if variance > 0 else 1.0)
                found.append((feature["name"], raw, plain.where(plain.isnan(raw), 0, plain.clip(scaled, -5, 5)).astype(self.real)))
        return found

    def mean_matrix(self, rows, table_size):
        matrix = plain.zeros((len(rows), table_size), self.real)
        for example, indexes in enumerate(rows):
            for index in indexes:
                matrix[example, index] += 1 / len(indexes)
        return matrix

    # ---- forward ----

    def attributes(self, rows, categorical):
        return [np.dot(self.mean_matrix(indexes, len(rows[table])), rows[table]) for table, indexes in categorical["user"]]

    def attribute_arrays(self, rows, categorical):
        each = self.attributes(rows, categorical)
        return plain.stack(each, 1), plain.concatenate(each, 1)

    def user_code(self, p, subset, attribute, categorical, dense):
        mask = plain.stack([plain.array([bool(i) for i in indexes]) for _, indexes in categorical["user"]], 1)
        user_dense = plain.array([scaled for _, _, scaled in dense["user"]]).reshape(-1, len(attribute)).T
        pooled = attention_pool(p, "zero_shot.attention_user.", attribute[subset], mask[subset])
        return residual_block(p, "zero_shot.encoder_user.", np.concatenate([pooled, user_dense[subset]], 1), True)

    def generated(self, p, rows, categorical, dense):
        """z_v of new users, as far as the ranking loss is concerned a constant but for the linear kind's."""
        if self.zero_shot["kind"] == "linear":
            return np.dot(np.concatenate(self.attributes(rows, categorical), 1), p["zero_shot.linear.weight"].T)
        size = len(categorical["item"][0][1])
        if self.zero_shot["kind"] == "none":
            return plain.zeros((size, self.dimension), self.real)
        p = {name: getattr(value, "_value", value) for name, value in p.items()}
        rows = {table: getattr(value, "_value", value) for table, value in rows.items()}
        attribute, _ = self.attribute_arrays(rows, categorical)
        output = residual_block(p, "zero_shot.decoder_behavior.", self.user_code(p, plain.arange(size), attribute, categorical, dense), False)
        return output.reshape(size, self.behavior_length, self.dimension).sum(1) if self.sequence else output

    def tower_input(self, p, rows, categorical, behaviors, is_new, dense):
        def group_input(group):
            pooled = plain.zeros((len(behaviors), self.dimension), self.real)
            for table, indexes in categorical[group]:
                pooled = pooled + np.dot(self.mean_matrix(indexes, len(rows[table])), rows[table])
            return [pooled] + [scaled[:, None] for _, _, scaled in dense[group]]
        counts = plain.zeros((len(behaviors), len(rows[self.behavior_table])), self.real)
        for example, items in enumerate(behaviors):
            for item in items:
                if item is not None:
                    counts[example, item] += 1
        z_v = np.where(is_new[:, None], self.generated(p, rows, categorical, dense), np.dot(counts, rows[self.behavior_table]))
        return np.concatenate(group_input("user") + [z_v] + group_input("context") + group_input("item"), 1)

    def logit(self, p, z, training, statistics):
        for layer in range(self.hidden):
            z = np.dot(z, p[f"ranking.hidden.{layer}.weight"].T)
            mean, variance = p[f"ranking.norm.{layer}.mean"], p[f"ranking.norm.{layer}.variance"]
            if training:
                mean = np.mean(z, 0)
                variance = np.mean((z - mean) ** 2, 0)
                statistics[layer] = mean, variance
            z = (z - mean) / np.sqrt(variance + 1e-3)
            z = leaky_relu(z * p[f"ranking.norm.{layer}.gamma"] + p[f"ranking.norm.{layer}.beta"])
        return (np.dot(z, p["ranking.output.weight"].T) + p["ranking.output.bias"])[:, 0]

    # ---- one step (section 6) ----

    def step(self, batch):
        size, now = len(batch), max(event["released"] for event in batch)
        parameters = {name: array for name, array in self.tensors.items() if name.startswith(("ranking.", "zero_shot."))}
        tables = {table: self.tensors[f"embedding.{table}.rows"] for table in self.row}
        categorical = {group: self.lookup(group, batch) for group in self.features}
        dense = {group: self.dense(group, batch) for group in self.features}
        behaviors = self.behaviors(batch)
        is_new = plain.array([not items for items in behaviors])
        label = plain.array([1.0 if event["clicked"] else 0.0 for event in batch], self.real)
        correction = plain.array([event["correction"] for event in batch])

        def forward(p, rows, categorical, behaviors, training, statistics):
            return self.logit(p, self.tower_input(p, rows, categorical, behaviors, is_new, dense), training, statistics)

        prediction = 1 / (1 + np.exp(-forward(parameters, tables, *self.of_living(categorical, behaviors), False, {})))
        self.begin_rows(categorical, behaviors, now)
        categorical, behaviors = self.of_living(categorical, behaviors)
        statistics = {}
        ranking_loss, (row_gradient, gradient) = value_and_grad(lambda both: cross_entropy(
            forward(both[1], both[0], categorical, behaviors, True, statistics), label, correction))((tables, parameters))

        reported, zero_shot_gradient = [0.0, 0.0, 0.0], None
        old = plain.nonzero(~is_new)[0]
        if self.zero_shot["kind"] == "mail" and len(old) >= 2:
            value, zero_shot_gradient, reported = self.zero_shot_loss(
                parameters, old, behaviors, tables, categorical, dense)

        self.apply(parameters, gradient, row_gradient, zero_shot_gradient, statistics, categorical, behaviors)
        for group in dense:
            for name, raw, _ in dense[group]:
                count, mean, m2 = self.running.get((group, name), (0, 0.0, 0.0))
                for value in raw[~plain.isnan(raw)]:
                    count += 1
                    delta = value - mean
                    mean += delta / count
                    m2 += delta * (value - mean)
                self.running[group, name] = count, mean, m2
        self.expire_rows(now)
        return prediction, is_new, label, [size, float(ranking_loss)] + reported

    def zero_shot_loss(self, parameters, old, behaviors, tables, categorical, dense):
        item_rows = tables[self.behavior_table]
        attribute, flat_attributes = self.attribute_arrays(tables, categorical)
        longest = max(len(items) for items in behaviors)
        padded = plain.zeros((len(old), self.behavior_length, self.dimension), self.real)
        mask = plain.zeros((len(old), self.behavior_length), bool)
        for place, example in enumerate(old):
            for slot, item in enumerate(behaviors[example]):
                if item is not None:
                    padded[place, slot] = item_rows[item]
                    mask[place, slot] = True
        target = padded.reshape(len(old), -1) if self.sequence else padded.sum(1)
        parts = [0.0, 0.0, 0.0]

        def loss(p):
            pooled = attention_pool(p, "zero_shot.attention_behavior.", padded[:, :longest], mask[:, :longest])
            codes = self.user_code(p, old, attribute, categorical, dense), residual_block(p, "zero_shot.encoder_behavior.", pooled, True)

            def reconstruction(code):
                to_user = residual_block(p, "zero_shot.decoder_user.", code, False) - flat_attributes[old]
                to_behavior = residual_block(p, "zero_shot.decoder_behavior.", code, False) - target
                return np.mean(np.sum(to_user ** 2, 1)) + np.mean(np.sum(to_behavior ** 2, 1))
            parts[0] = total = reconstruction(codes[0])
            if self.losses != "single":
                parts[1] = reconstruction(codes[1])
                total = total + parts[1]
            if self.losses == "full":
                sigma = self.zero_shot.get("bandwidth", 1.0)
                parts[2] = mean_kernel(codes[0], codes[0], sigma) + mean_kernel(codes[1], codes[1], sigma) - 2 * mean_kernel(*codes, sigma)
                total = total + parts[2]
            return total

        value, gradient = value_and_grad(loss)({name: array for name, array in parameters.items() if name.startswith("zero_shot.")})
        return value, gradient, [float(getattr(part, "_value", part)) for part in parts]

    def moments(self, name, like):
        return [self.tensors.setdefault(f"{name}.{moment}", plain.zeros_like(like)) for moment in "mv"]

    def row_state(self, table):
        rows = self.tensors[f"embedding.{table}.rows"]
        return *self.moments(f"embedding.{table}", rows), self.tensors.setdefault(f"embedding.{table}.step", plain.zeros(len(rows), plain.uint32))

    def apply(self, parameters, gradient, row_gradient, zero_shot_gradient, statistics, categorical, behaviors):
        groups = [("ranking", gradient, lambda name: (name.startswith("ranking.") and not name.endswith((".mean", ".variance")))
                   or name == "zero_shot.linear.weight")]
        if zero_shot_gradient is not None:
            idle = ("encoder_behavior", "attention_behavior") if self.losses == "single" else ()
            groups.append(("zero_shot", zero_shot_gradient, lambda name: not any(part in name for part in idle)))
        for group, gradients, moves in groups:
            counter = self.tensors[f"optimizer.{group}.step"]
            counter[0] += 1
            for name in filter(moves, gradients):
                update(self.optimizer.get(group, {}), self.tensors[name], gradients[name], *self.moments(f"optimizer.{name}", parameters[name]),
                       int(counter[0]))
        for layer, batch_statistics in statistics.items():
            for name, value in zip(("mean", "variance"), batch_statistics):
                running = self.tensors[f"ranking.norm.{layer}.{name}"]
                running[...] = 0.995 * running + 0.005 * getattr(value, "_value", value)
        for table in self.row:
            read = {index for columns in categorical.values() for name, rows in columns if name == table for indexes in rows for index in indexes}
            if table == self.behavior_table:
                read |= {item for items in behaviors for item in items if item is not None}
            rows = self.tensors[f"embedding.{table}.rows"]
            m, v, step = self.row_state(table)
            for index in sorted(read):
                step[index] += 1
                update(self.optimizer.get("embedding", {}), rows[index], row_gradient[table][index], m[index], v[index], int(step[index]))


def learn(config, initial, events, real=plain.float64):
    """All that a run gives: tensors, [id, new, clicked, score] of each example, the losses of each step."""
    reference = Reference(config, initial, real)
    examples = stream.Stream(config).examples([dict(event) for event in events])
    if config["embedding"].get("init_std") == 0:
        reference.add_places(examples)
    predictions, losses = [], []
    for batch in stream.batches(config, examples):
        scores, is_new, label, reported = reference.step(batch)
        predictions += [[event["impression_id"], int(new), int(clicked), float(score)]
                        for event, score, new, clicked in zip(batch, scores, is_new, label)]
        losses.append(reported)
    return reference.result(), predictions, losses


def read_case(case):
    return (yaml.safe_load(open(case + "/config.yaml")), load_safetensors(case + "/initial.safetensors"),
            [json.loads(line) for line in open(case + "/events.jsonl")])


def run(case, output):
    tensors, predictions, losses = learn(*read_case(case))
    with open(output + "/predictions.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["impression_id", "new", "clicked", "score"])
        writer.writerows([name, new, clicked, f"{score:.8f}"] for name, new, clicked, score in predictions)
    with open(output + "/losses.csv", "w") as file:
        file.write("step,examples,ranking,reconstruct_user,reconstruct_behavior,mmd\n")
        for step, reported in enumerate(losses):
            file.write(f"{step}," + ",".join(f"{number:.8g}" for number in reported) + "\n")
    save_safetensors(output + "/expected.safetensors", {
        name: array.astype(plain.float32) if array.dtype == plain.float64 else array for name, array in sorted(tensors.items())})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run(sys.argv[1], sys.argv[2])
