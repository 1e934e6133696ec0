"""Pure: an event and the configuration in, its deliveries out. No I/O, no clock (design, invariant 3)."""
