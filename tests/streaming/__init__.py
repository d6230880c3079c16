"""The stream on real services, and the parts that it is made of."""
