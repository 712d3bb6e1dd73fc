"""Speed, memory and accuracy, beside the same model in PyTorch, a U-Net and nnU-Net.

The commands:

    python -m benchmarks                 speed beside PyTorch and nnU-Net: docs/performance.md
    python -m benchmarks.accuracy        accuracy after equal time: docs/accuracy.md
    python -m benchmarks.feature_cache   when `config.train.cache_features` pays
    python -m benchmarks.regression      what became slower between two results
    python -m benchmarks.session         12 minutes of one GPU, by gpu_session.sh
    python -m benchmarks.parts           what each form of the model's parts is worth
    python -m benchmarks.recipe_cost     hours and memory of a config on three machines, on paper

Behind them, each imports only what stands before it:

    common    the machine, timing, worker processes, FLOPs on paper, what PyTorch's workers share
    paper     what the paper leaves open: hours and memory of a recipe, nnU-Net as a worker
    speed     cases, the JAX and the PyTorch worker, the comparison of their outputs, the table
    accuracy  arms, the JAX worker, the U-Net's and nnU-Net's, the record of the runs
    session   parts with a time of their own

Results with their machine, versions and command are tables of the notes in docs/log, as JSON
beside each note.
"""
