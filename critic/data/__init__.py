"""From a source to the samples of the trainings: readers, minibench, checks, rationales."""
