"""What a conversation is, what a detector is, and what both sides say to each other."""
