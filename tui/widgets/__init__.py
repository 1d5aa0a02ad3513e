"""What is on the screen. Widgets draw lines of runs and compare them with what they drew before."""
