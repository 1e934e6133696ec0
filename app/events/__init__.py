"""What an event is: its names, its form, its ids, its order."""
