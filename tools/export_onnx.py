#!/usr/bin/env python3
"""Writes a checkpoint's whole scorer as ONNX (needs numpy and onnx, and coldstreamctl in the path or given).

    tools/export_onnx.py CHECKPOINT model.onnx [COLDSTREAMCTL]

CHECKPOINT is a version's directory, or one of versions, whose current one is taken. Inputs are one row an example, of what its values' rows were pooled to (numerics.md, sections 2 and 4), float32 throughout:

    attribute [n, n_a, d]   a row for each categorical user feature: the mean of its values' rows, zeros where absent
    attribute_present [n, n_a]          1 where there is one, else 0
    user_dense, context_dense, item_dense [n, how many]     as they are, in the configuration's order; NaN where absent.
                            Only where there are any.
    behaviors [n, d]        the sum of the behaviors' rows
    is_new [n]              1 where the user has no behaviors: they are generated, and `behaviors` is not read
    context, item [n, d]    the sums of the groups' values

and `score` [n] is the probability of a click. Every `n` and `n_a` will do.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SLOPE, EPSILON, LIMIT = 0.2, 1e-3, 5.0
GROUPS = ("user", "context", "item")


class Graph:
    def __init__(self):
        self.nodes, self.constants, self.inputs = [], [], []

    def constant(self, value):
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def input(self, name, *shape):
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]))
        return name

    def do(self, kind, *arguments, **attributes):
        name = attributes.pop("name", f"{kind.lower()}_{len(self.nodes)}")
        inputs = [a if isinstance(a, str) else self.constant(a) for a in arguments]
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def dense(self, x, weight, bias=None, leaky=True):
        y = self.do("MatMul", x, weight.T.astype(np.float32))
        if bias is not None:
            y = self.do("Add", y, bias.astype(np.float32))
        return self.do("LeakyRelu", y, alpha=SLOPE) if leaky else y


def axes(*values):
    return np.array(values, dtype=np.int64)


def standardise(graph, tensors, features, group):
    """A group's dense features, as the model standardises them; (None, 0) where it has none."""
    names = [f"features.{group}.{one['name']}" for one in features if one["group"] == group and "table" not in one]
    if not names:
        return None, 0
    parts = {part: np.array([np.ravel(tensors[f"{name}.{part}"])[0] for name in names]) for part in ("count", "mean", "m2")}
    variance = np.where(parts["count"] >= 2, parts["m2"] / np.maximum(parts["count"], 1), 1.0)
    mean = np.where(parts["count"] >= 2, parts["mean"], 0.0)
    scale = np.sqrt(np.where(variance > 0, variance, 1.0))
    value = graph.do("Cast", graph.input(f"{group}_dense", len(names)), to=TensorProto.DOUBLE)
    standard = graph.do("Div", graph.do("Sub", value, mean), scale)
    clipped = graph.do("Clip", standard, np.float64(-LIMIT), np.float64(LIMIT))
    known = graph.do("Where", graph.do("IsNaN", value), np.float64(0), clipped)
    return graph.do("Cast", known, to=TensorProto.FLOAT), len(names)


def block(graph, tensors, name, x, last_leaky, last=None):
    """Three dense layers, each after the first reading what the block read as well."""
    y = x
    for layer in range(3):
        weight, bias = tensors[f"{name}.{layer}.weight"], tensors[f"{name}.{layer}.bias"]
        if layer == 2 and last is not None:
            weight, bias = last(weight), last(bias)
        y = graph.dense(y if layer == 0 else graph.do("Concat", y, x, axis=1), weight, bias, layer < 2 or last_leaky)
    return y


def generate(graph, tensors, attribute, present, dense, d):
    """The behaviors of a user who has none."""
    if "zero_shot.linear.weight" in tensors:
        flat = graph.do("Reshape", attribute, axes(0, -1))
        return graph.dense(flat, tensors["zero_shot.linear.weight"], leaky=False)
    if "zero_shot.attention_user.weight" not in tensors:        # kind: none
        return None
    attention = {part: tensors[f"zero_shot.attention_user.{part}"] for part in ("weight", "bias", "query")}
    hidden = graph.do("Tanh", graph.dense(attribute, attention["weight"], attention["bias"], leaky=False))
    energy = graph.do("MatMul", hidden, attention["query"].reshape(-1, 1).astype(np.float32))
    mask = graph.do("Unsqueeze", present, axes(2))
    # Far below any energy, yet finite: without any attribute all shares are alike, and the sum of zeros is zero.
    energy = graph.do("Where", graph.do("Greater", mask, np.float32(0.5)), energy, np.float32(-1e30))
    share = graph.do("Softmax", energy, axis=1)
    h = graph.do("ReduceSum", graph.do("Mul", graph.do("Mul", share, mask), attribute), axes(1), keepdims=0)
    if dense is not None:
        h = graph.do("Concat", h, dense, axis=1)
    code = block(graph, tensors, "zero_shot.encoder_user", h, last_leaky=True)
    return block(graph, tensors, "zero_shot.decoder_behavior", code, last_leaky=False,
                 last=lambda part: part.astype(np.float64).reshape(-1, d, *part.shape[1:]).sum(0))  # slots are summed


def tower(graph, tensors, z):
    layer = 0
    while f"ranking.hidden.{layer}.weight" in tensors:
        norm = {part: tensors[f"ranking.norm.{layer}.{part}"].astype(np.float64) for part in ("gamma", "beta", "mean", "variance")}
        scale = norm["gamma"] / np.sqrt(norm["variance"] + EPSILON)
        z = graph.dense(z, tensors[f"ranking.hidden.{layer}.weight"] * scale[:, None], norm["beta"] - norm["mean"] * scale)
        layer += 1
    logit = graph.dense(z, tensors["ranking.output.weight"].reshape(1, -1), tensors["ranking.output.bias"].reshape(1), leaky=False)
    graph.do("Sigmoid", graph.do("Squeeze", logit, axes(1)), name="score")


def reads(tensors):
    """How wide z is."""
    first = "ranking.hidden.0.weight" if "ranking.hidden.0.weight" in tensors else "ranking.output.weight"
    return tensors[first].shape[-1]


def build(tensors, features):
    graph = Graph()
    dense = {group: standardise(graph, tensors, features, group) for group in GROUPS}
    d = (reads(tensors) - sum(count for _, count in dense.values())) // 4
    attribute, present = graph.input("attribute", "n_a", d), graph.input("attribute_present", "n_a")
    behaviors, is_new = graph.input("behaviors", d), graph.input("is_new")
    new = graph.do("Unsqueeze", graph.do("Greater", is_new, np.float32(0.5)), axes(1))
    generated = generate(graph, tensors, attribute, present, dense["user"][0], d)
    z_v = graph.do("Where", new, generated if generated else np.zeros((1, d), np.float32), behaviors)
    parts = [graph.do("ReduceSum", attribute, axes(1), keepdims=0), dense["user"][0], z_v, graph.input("context", d),
             dense["context"][0], graph.input("item", d), dense["item"][0]]
    tower(graph, tensors, graph.do("Concat", *(part for part in parts if part), axis=1))
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])
    model = helper.make_model(helper.make_graph(graph.nodes, "coldstream", graph.inputs, [score], graph.constants),
                              opset_imports=[helper.make_opsetid("", 18)], producer_name="coldstream")
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    return model


def read(checkpoint, coldstreamctl):
    """A checkpoint's tensors by name, and its features in the configuration's order."""
    version = os.path.join(checkpoint, "current")
    with open(os.path.join(version if os.path.exists(version) else checkpoint, "manifest.json")) as file:
        features = json.load(file)["features"]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.npz")
        subprocess.run([coldstreamctl, "export", "--quiet", "--from", checkpoint, path], check=True)
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}, features


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__.strip())
    onnx.save(build(*read(sys.argv[1], sys.argv[3] if len(sys.argv) == 4 else "coldstreamctl")), sys.argv[2])


if __name__ == "__main__":
    main()
