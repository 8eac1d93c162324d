"""Analysis of a benchmark's records: tables, figures and a report, without torch.

This package reads what `python -m benchmarks.run` wrote and imports no other package of the project:

- `records`: a run's folder as data frames, with what is missing said in words
- `curves`: means over evaluated videos, per seed and iteration; which seeds count
- `statistics`: intervals over seeds
- `answer`: the question a run was made for and its answer in plain sentences
- `tables`, `plots`, `videos`: what the answer rests on
- `report`: all of it in one page, `python -m analysis.report RUN`
"""
