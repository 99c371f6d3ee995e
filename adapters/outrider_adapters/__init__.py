"""One adapter a framework; each patches that framework's lowest public execution method, and only when asked."""
