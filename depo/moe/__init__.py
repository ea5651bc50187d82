"""Which experts each token went to: recorded, forced again (routing replay), and watched (telemetry)."""
