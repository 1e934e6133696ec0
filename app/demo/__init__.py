"""What shows Sluice at work: events that look real."""
