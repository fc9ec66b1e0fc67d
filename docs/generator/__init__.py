"""Everything in the pages that exists as a table in the code is generated from it: `python -m docs.generator`."""
