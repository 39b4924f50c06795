"""The same question through Vertex AI batch inference: half the price, within days instead of minutes."""
