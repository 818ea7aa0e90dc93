"""What TensorBoard itself reads in a folder of event files, as JSON on standard output:
{"scalars": {tag: [[step, value], ...]}, "histograms": {tag: [[step, number of values], ...]}}."""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "histograms": 0})
events.Reload()
tags = events.Tags()
print(json.dumps({
    "scalars": {t: [[e.step, e.value] for e in events.Scalars(t)] for t in tags["scalars"]},
    "histograms": {
        t: [[e.step, e.histogram_value.num] for e in events.Histograms(t)]
        for t in tags["histograms"]
    },
}))
