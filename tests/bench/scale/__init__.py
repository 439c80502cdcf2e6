"""How costs grow with samples, steps of a window, tasks, layers, and the length of a run.

    python -m tests.bench.scale [--only WORDS] [--anew] [--rounds 3] [--folder PATH]
    python -m tests.bench.scale --ranks

Each row takes one quantity at four sizes, most four times the one before, in a process of its own:
seconds of the processor (of all its threads; torch has one), as the median of a few rounds, and the
most memory that it added. The exponent is the slope of log(cost) over log(size) by least squares,
with its standard error; the last one is between the two largest sizes, where what is constant
weighs least. A quantity grows faster than its work if one of them is clearly above the work's.

--ranks: samples per second of two processes (gloo, a thread each) beside one process. It needs two
idle cores.

Results go to results/scale.jsonl; a point that is there is not measured again, unless --anew.
"""
