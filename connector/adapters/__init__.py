"""What stands behind the ports: one technology per module. Only bootstrap picks among them."""
