"""What every model family shares: the contract, the loop, data and sound."""

_OWNER = 'ostinato'  # Families check it: `common` is a name others use too.
