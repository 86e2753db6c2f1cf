"""The exact proposer: rules found one by one in what is left unexplained, for heads that are programs."""
