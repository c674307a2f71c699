"""The paper's figures as commands, on a net and on data of one's own.

variants (nets of one figure) -> trials in a ledger -> table with intervals, picture, the paper's numbers beside it
"""

__all__ = ()
