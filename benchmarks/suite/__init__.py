"""Does a learned policy grow better networks? A protocol fixed beforehand, run whole, and reported.

`protocol` holds the tables; `esper bench` runs, tunes, reports and validates. SUBMISSION.md tells how to enter.
"""
