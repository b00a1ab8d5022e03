"""What a store keeps beside the data: fingerprints."""
