"""DROO (Huang, Bi, Zhang, IEEE TMC 2020, arXiv 1808.01977, algorithm 1): who sends and who computes in each frame.

As in the paper: hidden layers of 120 and 80 units, order-preserving quantisation, the candidate of the greatest rate is
decided and remembered, a memory of 1024 frames, a batch of 128 of them every 10 frames, Adam with a learning rate of
0.01, adaptive K. What differs, and why:

- All frames between two updates are decided together, which gives the same decisions, as the network stays the same;
  so the adaptive number of candidates changes with the rounds of 10 frames.
- The network reads logarithms of the gains over their means, not gains times 10^6.
- The learning rate falls to 0 over the second half of the training.
"""
