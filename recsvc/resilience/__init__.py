"""What keeps one failing dependency from taking the service with it."""
