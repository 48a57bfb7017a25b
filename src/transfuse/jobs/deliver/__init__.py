"""What a job leaves behind: figures, predictions, exports, what trackers are told."""
