"""What starts and surrounds hub and sites; the only place that wires them together."""
