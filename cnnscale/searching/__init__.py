"""Find alpha, beta and gamma for a net of one's own.

grid -> candidates of equal MACs -> trials in a ledger -> halving -> statistics -> the cheapest of the best
"""

__all__ = ()
