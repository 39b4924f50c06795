"""What must work before `classify` can: each check tries the real thing once, and says what to mend where it fails."""

from pipeline.checkup.steps import STEPS, Patient, Step

__all__ = ["STEPS", "Patient", "Step"]
