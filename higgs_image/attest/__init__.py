"""What is proven of an image: SBOM, provenance, signature, rebuild."""
