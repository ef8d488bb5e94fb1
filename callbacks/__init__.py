"""What is looked at while training; removing one changes no weight."""
