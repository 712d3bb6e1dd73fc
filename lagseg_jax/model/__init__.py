"""The network of arXiv 2502.06615: frozen encoder, fusion weights, decoder."""
