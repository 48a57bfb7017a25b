"""What the samples of a batch are to each other, learnt from a teacher."""
