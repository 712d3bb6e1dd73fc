"""Speed, measured beside the same model in PyTorch: `python -m benchmarks`.

The files:

    __main__, cases, run_case  command line -> what is measured, in which order
    rounds, compare            timings in turn, their medians; are the outputs the same?
    table, machine             rows + machine -> Markdown and JSON
    worker                     a process that stays warm and takes commands
    problem, exchange          case -> config, model, weights, inputs; the same as files
    ours, ours_rows            the JAX worker, and what is timed in it
    peer, peer_rows            the PyTorch worker, and what is timed in it
    peer_model                 the same model in PyTorch
    nnunet                     nnU-Net's own predictor as a third worker
    cost, ceilings             FLOPs and bytes on paper; what the device can do
    memory, recipe_cost        config -> memory on paper; hours predicted for three machines
    scaling, first_start       cost as work grows; first and second start of a command
    mapped_step                what jax.pmap adds to a step; a command of its own
    feature_cache              when cached features pay; likewise
    parts                      parts of the decoder beside their plain forms; likewise

And accuracy from equal time on equal cases: `python -m benchmarks.accuracy`.

    accuracy, accuracy_record  arms, seeds -> runs and their scores; files and a table
    accuracy_ours              the JAX worker: an ordinary run
    accuracy_unet              the PyTorch worker: a plain 2D U-Net
    nnunet_dataset             dataset and split -> nnU-Net's folders; a command of its own
"""
