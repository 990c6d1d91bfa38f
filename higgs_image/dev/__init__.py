"""What must hold before a change is merged: lint, types, tests, workflows."""
