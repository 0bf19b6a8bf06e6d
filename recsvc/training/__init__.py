"""From a tenant's events to a published model: dataset → algorithms → evaluation → publication."""
