"""What is compared. Each module runs one scenario once, in a process of its own."""
