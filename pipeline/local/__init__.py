"""What the demo and the tests run against instead of Google: all on loopback, nothing from the network."""
