"""The command line: thin verbs over the packages; `main` is the entry point."""
