"""What is fetched from servers: transport within bounds."""
