"""Why sharing hurts or helps: measured after a search, on training and validation rows.

`Diagnosis` is a script of units that trains controls beside the best networks of a search; what
they show (`measurements`) becomes findings (`findings`) and advice (`advice`), which is tried.
"""

from autometa.diagnosis.script import Diagnosis
from autometa.diagnosis.storing import ATTRIBUTE, stored

__all__ = ["ATTRIBUTE", "Diagnosis", "stored"]
