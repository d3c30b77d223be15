"""What does each verb, by noun. Each method is bound to its verb, which says what it takes and gives."""
