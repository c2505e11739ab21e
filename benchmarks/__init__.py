"""Programs that measure speed, cost and quality. Each prints Markdown tables and writes benchmarks/results/NAME.json.

- the sampler and the network: speed, network, cost, oracle (effect of the lattice), pipelines (diffusers' own)
- edits: cheaper (cheaper settings), caption, samplers (comparison of samplers), sweep (settings of the sampler)
- jobs: bulk (many edits in one job), efficiency (share of the machine), dataplane (moving data), scale (large jobs)
- gpu_check: one GPU machine, in eight minutes
"""
