#!/usr/bin/env python3
"""onnxruntime's time for a checkpoint's ranking tower, normalisation folded in: one thread, N rows of z, as it comes.

usage: bench_onnx.py CHECKPOINT ROWS COLDSTREAMCTL        prints the median in seconds and onnxruntime's version
"""
import statistics
import sys
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

import export_onnx

REPEAT, WARM = 300, 20


def main():
    checkpoint, rows, ctl = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    tensors, _ = export_onnx.read(checkpoint, ctl)
    graph = export_onnx.Graph()
    width = export_onnx.reads(tensors)
    export_onnx.tower(graph, tensors, graph.input("z", width))
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])
    model = helper.make_model(helper.make_graph(graph.nodes, "tower", graph.inputs, [score], graph.constants),
                              opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    z = np.random.default_rng(1).standard_normal((rows, width), dtype=np.float32)
    seconds = []
    for _ in range(WARM + REPEAT):
        begin = time.perf_counter()
        session.run(["score"], {"z": z})
        seconds.append(time.perf_counter() - begin)
    print(statistics.median(seconds[WARM:]), onnxruntime.__version__)


if __name__ == "__main__":
    main()
