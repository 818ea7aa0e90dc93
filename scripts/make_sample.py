#!/usr/bin/env python3
"""Makes assets/sample from tests/golden/tokenizer/c4. For maintainers; run from the root.

Documents are shuffled with a fixed seed (in topic order the loss rises when the topic changes); one
in twelve is held out for validation.
"""
import gzip
import json
import os
import random

documents = []
for i in range(2):
    name = f"tests/golden/tokenizer/c4/en/c4-train.0000{i}-of-00002.json.gz"
    with gzip.open(name, "rt", encoding="utf-8") as f:
        documents += [json.loads(line)["text"] for line in f]
documents = [d for d in documents if len(d) > 40]
random.Random(1).shuffle(documents)
held_out, train = documents[::12], [d for i, d in enumerate(documents) if i % 12]


def write(path, texts):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as f:
        for text in texts:
            f.write((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode())


half = len(train) // 2
write("assets/sample/en/c4-train.00000-of-00002.json.gz", train[:half])
write("assets/sample/en/c4-train.00001-of-00002.json.gz", train[half:])
write("assets/sample/validation/c4-validation.00000-of-00001.json.gz", held_out)
print(len(train), "training documents,", len(held_out), "held out,", sum(map(len, train)), "characters")
