"""What a training stage predicts: functions of logits and labels, or of a model and a batch."""
