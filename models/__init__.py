"""What learns: tensors and numbers; no Beam, no Kafka, no clock."""
