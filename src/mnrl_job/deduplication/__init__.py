"""Groups of equal and nearly equal texts, leakage, holdout, and the audit."""
