"""What a network computes, in a few operations, and how they round: on points and on intervals."""
