"""Analysis of a benchmark's records: tables, figures and a report, without torch.

This package reads what `python -m benchmarks.run` wrote and imports no other package of the project:

- `schema`: how files, columns, components, metrics and units are called; what writes them reads it too
- `records`, `combine`: a run's folder as data frames, with what is missing said in words; several as one
- `curves`, `costs`: means over evaluated videos per seed and iteration; the compute spent up to each
- `statistics`: metrics, estimates and intervals over seeds; `power`: how many seeds the next benchmark needs
- `answer`: the question a run was made for and its answer in plain sentences
- `convergence`, `alignment`: the evidence on the question; `tables`, `plots`, `videos`: how evidence looks
- `hacking`, `tradeoffs`, `guidance`, `process_cost`, `pool`: more evidence, each with its own tables and figures
- `page`, `report`: all of it in one page

Command lines, each for one run or several: `python -m analysis.report`, `.pool`.
"""
