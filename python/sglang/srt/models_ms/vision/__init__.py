"""Vision towers: what makes rows of the patches of an image. They know no decoder."""
