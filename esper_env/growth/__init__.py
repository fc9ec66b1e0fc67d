"""Growing networks: epochs of training, coalition values, and the governor that watches over them."""
