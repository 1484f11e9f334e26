"""What users ask for: classifiers on samples, properties, attacks, and the files that hold the answers."""
