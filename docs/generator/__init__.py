"""Everything in the pages that exists as a table in the code is generated from it, while the site is built."""
