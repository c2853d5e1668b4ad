"""The tabs of the page, a module each; they share a `Visit` and import nothing from each other."""
