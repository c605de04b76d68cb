"""From Kafka bytes to forecasts."""
