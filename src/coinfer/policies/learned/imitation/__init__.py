"""What is learned by imitation of the best candidate: networks, quantisers, critic, policies (DROO, GRLE)."""
