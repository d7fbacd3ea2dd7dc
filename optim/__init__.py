"""optim: from screening data to an executable recipe with the best yield per cost."""

__version__ = "0.1.0"
