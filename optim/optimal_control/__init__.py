"""Optimal control: control profiles with hundreds of values, by an interior-point method with exact derivatives."""
