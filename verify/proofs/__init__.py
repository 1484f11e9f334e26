"""What certificates hold, and the proofs that they make: over splits of neurons and of inputs."""
