"""Gemini on Vertex AI: models and prices, requests and responses as pure functions, and the gRPC client."""
