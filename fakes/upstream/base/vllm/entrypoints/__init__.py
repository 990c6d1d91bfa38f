"""Equal in the wheel and in the fork: the overlay must leave the wheel's file alone."""
