"""Networks, endpoints, addresses and published ports."""
