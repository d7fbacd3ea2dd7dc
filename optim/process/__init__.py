"""The process: decisions, design, limits, costs and objective of a family of batches."""
